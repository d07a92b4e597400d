// Lets ES modules find the packages that lie beside this file, as NODE_PATH does for require(). The file is both the
// registration, on the main thread, and the hook, on node's loader thread.
import { register } from 'node:module';
import { isMainThread } from 'node:worker_threads';

const here = new URL('./package.json', import.meta.url).href;

if (isMainThread) register(import.meta.url);

export async function resolve(specifier, context, nextResolve) {
  try {
    return await nextResolve(specifier, context);
  } catch (error) {
    if (error.code !== 'ERR_MODULE_NOT_FOUND' || /^(\.{0,2}\/|[a-z]+:)/.test(specifier)) throw error;
    return nextResolve(specifier, { ...context, parentURL: here });
  }
}
