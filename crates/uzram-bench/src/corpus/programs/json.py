import json, sys, random
r, keep, used = random.Random(7), {}, lambda: int(open('/proc/self/statm').read().split()[1]) * 4096
i = 0
while i % 1000 or used() < LIMIT:
    i += 1
    doc = {'id': i, 'name': 'user%d' % r.randrange(10**6), 'score': r.random(),
           'tags': [r.choice(['red', 'green', 'blue', 'old', 'new']) for _ in range(r.randrange(6))],
           'text': ' '.join(r.choice(['lorem', 'ipsum', 'dolor', 'sit', 'amet']) for _ in range(20))}
    keep[doc['name']] = json.loads(json.dumps(doc)); keep[i] = json.dumps(doc)
print('ready', flush=True); sys.stdin.read()
