// Lets `import` find what NODE_PATH names, as require() does, on a node without synchronous hooks. The module is both
// the registration, on the main thread, and the hook, on node's loader thread.
import module, { createRequire } from 'node:module';
import { basename, delimiter, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { isMainThread } from 'node:worker_threads';

const places = (process.env.NODE_PATH ?? '').split(delimiter).filter(Boolean);
const isBare = /^(?!\.{0,2}\/|[a-z][a-z+.-]*:|#)/;

if (isMainThread) module.register?.(import.meta.url); // one that has no register() takes this as its --loader

// A directory called node_modules holds packages, any other one modules by their names.
function* elsewhere(specifier) {
  for (const place of places) {
    if (basename(place) === 'node_modules') yield [specifier, { parentURL: pathToFileURL(join(place, '..', 'x')).href }];
    const { resolve } = createRequire(join(place, 'x'));
    for (const name of ['', '.mjs', '/index.mjs']) {
      try {
        yield [pathToFileURL(resolve('./' + specifier + name)).href, {}];
      } catch (error) {
        if (error.code !== 'MODULE_NOT_FOUND') throw error;
      }
    }
  }
}

export async function resolve(specifier, context, nextResolve) {
  try {
    return await nextResolve(specifier, context, nextResolve);
  } catch (error) {
    if (error.code !== 'ERR_MODULE_NOT_FOUND' || !isBare.test(specifier)) throw error;
    for (const [target, changed] of elsewhere(specifier)) {
      try {
        return await nextResolve(target, { ...context, ...changed }, nextResolve);
      } catch (other) {
        if (other.code !== 'ERR_MODULE_NOT_FOUND') throw other;
      }
    }
    throw error;
  }
}
