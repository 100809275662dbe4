const keep = new Map(); let i = 0, seed = 7;
const next = n => (seed = (seed * 1103515245 + 12345) % 2147483648) % n;
while (i % 1000 || process.memoryUsage().rss < LIMIT) {
  const doc = { id: i++, name: 'user' + next(1e6), score: next(1e6) / 1e6, tags: ['red', 'green', 'blue'].slice(next(3)),
    text: Array.from({ length: 12 }, () => ['lorem', 'ipsum', 'dolor', 'sit', 'amet'][next(5)]).join(' ') };
  keep.set(doc.name, JSON.parse(JSON.stringify(doc))); keep.set(i, JSON.stringify(doc));
}
console.log('ready'); process.stdin.resume();
