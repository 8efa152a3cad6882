// Preloaded into Node by sanitize.sh: the import #addon means the file that FUSCO_SANITIZED_ADDON names.
const Module = require('node:module');

const resolve = Module._resolveFilename;
Module._resolveFilename = function (request, ...rest) {
  return request === '#addon' ? process.env.FUSCO_SANITIZED_ADDON : resolve.call(this, request, ...rest);
};
