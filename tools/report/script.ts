// The report's own script; the bundler puts it into one file, which is inlined.

import { listen } from './readout.ts';

listen(document);
