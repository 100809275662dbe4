import sqlite3, sys, random
r = random.Random(9); db = sqlite3.connect(':memory:')
db.execute('create table t(a integer primary key, b text, c real, d blob)')
used = lambda: int(open('/proc/self/statm').read().split()[1]) * 4096
while used() < LIMIT:
    db.executemany('insert into t(b, c, d) values(?, ?, ?)',
        [('customer %d street %d' % (r.randrange(10**6), r.randrange(900)), r.gauss(0, 1),
          bytes(r.randrange(256) for _ in range(r.randrange(40)))) for _ in range(5000)])
    db.execute('create index if not exists i on t(b)')
print('ready', flush=True); sys.stdin.read()
