// The script of the report; the bundler makes one file of it, which is inlined.

import { listen } from './readout.ts';

listen(document);
