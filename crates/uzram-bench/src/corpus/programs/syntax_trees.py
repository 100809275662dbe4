import ast, glob, os, sys
keep, used = [], lambda: int(open('/proc/self/statm').read().split()[1]) * 4096
files = sorted(glob.glob(os.path.dirname(os.__file__) + '/**/*.py', recursive=True))
while used() < LIMIT:
    for f in files:
        try: keep.append(ast.parse(open(f, encoding='utf8').read()))
        except Exception: pass
        if used() >= LIMIT: break
print('ready', flush=True); sys.stdin.read()
