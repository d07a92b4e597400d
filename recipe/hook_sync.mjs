// Lets ES modules find the packages that lie beside this file, as NODE_PATH does for require().
import { registerHooks } from 'node:module';

const here = new URL('./package.json', import.meta.url).href;

registerHooks({
  resolve(specifier, context, nextResolve) {
    try {
      return nextResolve(specifier, context);
    } catch (error) {
      if (error.code !== 'ERR_MODULE_NOT_FOUND' || /^(\.{0,2}\/|[a-z]+:)/.test(specifier)) throw error;
      return nextResolve(specifier, { ...context, parentURL: here });
    }
  },
});
