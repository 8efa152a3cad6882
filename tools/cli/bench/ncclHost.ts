import type { HostTimes } from '../../bench/ncclHost.ts';
import { print } from '../io.ts';
import { printGrid } from './shared.ts';

/** Milliseconds of the parts of a step that is planned on the host, and of recording it. */
export function showHost(host: HostTimes): void {
  print('\na step that is planned on the host; dispatches until rows are in place');
  printGrid(
    ['', 'ms'],
    [
      ['planLocal, from gathered counts', host.planLocalMs],
      ['prepare', host.prepareMs],
      ['first dispatch along a new plan', host.firstDispatchMs],
      ['the next dispatch', host.nextDispatchMs],
      ['planLocal, prepare and dispatch', host.stepMs],
      ['the same with group.record', host.recordedStepMs],
    ],
    3,
  );
}
