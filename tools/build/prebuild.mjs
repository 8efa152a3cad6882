// Puts the addon of this machine into prebuilds/, from where the package is made: package managers block the install
// scripts of dependencies, so a package that had to be compiled would run on the reference alone.
//
// It must run where it was not built. So it may need no newer symbols of the C and C++ libraries than Ubuntu 22.04 and
// Debian 12 have, and nothing is compiled for the processor at hand (AVX2 is asked for at run time). Linking the C++
// library in would need newer symbols of the C library than it saves, and Node brings libstdc++ along anyway.

import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, copyFileSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));
/** The newest symbols that a prebuilt addon may need: glibc 2.34 and GCC 12, as README.md says. */
const NEWEST = { GLIBC: '2.34', GLIBCXX: '3.4.30', CXXABI: '1.3.13', GCC: '12.0.0' };
const LIBRARIES = /^(libc|libm|libgcc_s|libstdc\+\+|libpthread|libdl|librt|ld-linux-x86-64)\.so/;

function fail(text) {
  throw new Error(`prebuild: ${text}`);
}

/** Whether a version is newer than another, number by number. */
function isNewer(version, than) {
  const [a, b] = [version, than].map((text) => text.split('.').map(Number));
  const at = a.findIndex((number, i) => number !== (b[i] ?? 0));
  return at >= 0 && a[at] > (b[at] ?? 0);
}

/** Throws unless the addon needs old symbols only, and no library but those that Node needs as well. */
function checkBaseline(file) {
  const symbols = execFileSync('objdump', ['-T', file], { encoding: 'utf8' });
  for (const [name, library, version] of symbols.matchAll(/\b(GLIBC|GLIBCXX|CXXABI|GCC)_([\d.]+)/g)) {
    if (isNewer(version, NEWEST[library])) fail(`it needs ${name}, newer than ${NEWEST[library]}`);
  }
  const needed = execFileSync('objdump', ['-p', file], { encoding: 'utf8' }).matchAll(/NEEDED +(\S+)/g);
  const others = [...needed].map(([, name]) => name).filter((name) => !LIBRARIES.test(name));
  if (others.length > 0) fail(`it needs ${others.join(', ')}`);
}

if (process.platform !== 'linux' || process.arch !== 'x64') {
  process.stderr.write(`prebuild: none for ${process.platform}-${process.arch}\n`);
} else {
  const built = spawnSync(process.execPath, [`${root}tools/build/addon.mjs`], { stdio: ['ignore', 2, 2] });
  if (built.status !== 0) fail('the addon was not built');
  const target = `${root}prebuilds/linux-x64/fusco.node`;
  mkdirSync(`${root}prebuilds/linux-x64`, { recursive: true });
  // Under another name first, so that nobody packs a part.
  const temporary = `${target}.${process.pid}`;
  try {
    copyFileSync(`${root}build/native/Release/fusco.node`, temporary);
    execFileSync('strip', ['--strip-unneeded', temporary]);
    chmodSync(temporary, 0o644);
    checkBaseline(temporary);
    renameSync(temporary, target);
  } finally {
    rmSync(temporary, { force: true });
  }
}
