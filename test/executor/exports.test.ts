import { expect, it } from 'vitest';
import * as fusco from '../../executor/index.ts';

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
  'verifyPlan',
  'weightGradientRanks',
  // Groups and exchanges
  'Cuda',
  'CudaEvent',
  'CudaGraph',
  'DevicePlan',
  'Exchange',
  'Group',
  'Session',
  'connect',
  'createGroup',
  'cudaDevices',
  'ncclLibrary',
  'openCuda',
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

it('no instance shows the native objects behind it', () => {
  const members = [fusco.Cuda, fusco.DevicePlan, fusco.Exchange, fusco.Session].flatMap((type) =>
    Object.getOwnPropertyNames(type.prototype),
  );
  for (const name of ['native', 'unfused', 'spin', 'receive', 'fail']) expect(members).not.toContain(name);
});
