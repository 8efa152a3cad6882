import { expect, it } from 'vitest';
import * as fusco from '../../executor/index.ts';
import { resolveOptions } from '../../planner/spec.ts';

/** Every value that `import … from 'fusco'` gives. A name that is added or removed here is a change of the public API. */
const PUBLIC = [
  // Plans
  'ERROR_HINTS',
  'FuscoError',
  'Planner',
  'decodePlan',
  'encodePlan',
  'isVerified',
  'loadPlanner',
  'makePlacement',
  'nodeSha256',
  'planId',
  'rowBytes',
  'verifyPlan',
  'weightGradientRanks',
  // Groups and exchanges
  'Cuda',
  'CudaEvent',
  'CudaGraph',
  'DeviceExchange',
  'DevicePlan',
  'Exchange',
  'Group',
  'Session',
  'connect',
  'createGroup',
  'cudaDevices',
  'fromBf16',
  'ncclLibrary',
  'openCuda',
  'toBf16',
  // Training
  'ExpertLayer',
  'PlanAhead',
  'Recorder',
  'STEP_STAGES',
  'StepClock',
  'expFloat',
  'readRecording',
  'replayStep',
  'rowBlocks',
  'scaleBlocks',
];

it('the package exports these values, and no others', () => {
  expect(Object.keys(fusco).sort()).toEqual([...PUBLIC].sort());
});

it('rowBytes gives the bytes of both rows, without scales', () => {
  const bytes = (options: object) => {
    const spec = resolveOptions({ experts: 2, ranks: 1, hidden: 10, ...options }, 1);
    return Object.values(fusco.rowBytes({ spec }));
  };
  expect(bytes({})).toEqual([20, 20]);
  expect(bytes({ dtype: 'fp8' })).toEqual([10, 20]);
  expect(bytes({ dtype: 'f32', combineDtype: 'f16' })).toEqual([40, 20]);
  expect(bytes({ dtype: 'bytes', combineDtype: 'bytes' })).toEqual([10, 10]);
});

it('no instance shows the native objects behind it', () => {
  const members = [fusco.Cuda, fusco.DevicePlan, fusco.Exchange, fusco.Session].flatMap((type) =>
    Object.getOwnPropertyNames(type.prototype),
  );
  for (const name of ['native', 'unfused', 'spin', 'receive', 'fail']) expect(members).not.toContain(name);
});
