// The tensors of a .pt file by name: keys and numbers on the way to them, joined by dots.

import type { NamedArray } from './arrays.ts';
import { refuse } from './file.ts';
import type { PickleValue } from './pickle.ts';
import { TorchTensor } from './torch.ts';

/** As many as a recording has layers. */
const MAX_TENSORS = 1 << 16;

/** Characters of a name, so that a deep structure does not take more memory than its file. */
const MAX_NAME = 1024;

/** The tensors, dicts and lists in a dict or list, with their keys. */
function partsOf(value: PickleValue): (readonly [unknown, PickleValue])[] {
  if (!(value instanceof Map) && !Array.isArray(value)) return [];
  const parts: Iterable<readonly [unknown, PickleValue]> = value.entries();
  return [...parts].filter(
    ([, part]) => part instanceof TorchTensor || part instanceof Map || Array.isArray(part),
  );
}

/**
 * Every tensor in dicts and lists, in their order; a tensor alone has the empty name. Other values are left alone.
 *
 * @throws FuscoError E_FOREIGN for more tensors than a recording has
 */
export function tensorsOf(value: PickleValue, path: string): NamedArray[] {
  const found: NamedArray[] = [];
  // A structure may contain itself.
  const seen = new Set<unknown>();
  const open: { name: string; value: PickleValue }[] = [{ name: '', value }];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const { name, value: item } = next;
    if (item instanceof TorchTensor) {
      const { dtype, declared, shape } = item;
      found.push({
        name,
        dtype,
        shape,
        read: () => item.toArray(),
        ...(declared === undefined ? {} : { declared }),
      });
      if (found.length > MAX_TENSORS) refuse(path, `it holds more than ${MAX_TENSORS} tensors`);
    } else if (!seen.has(item)) {
      seen.add(item);
      if (name.length > MAX_NAME) refuse(path, 'its dicts and lists are nested too deep');
      for (const [key, part] of partsOf(item).reverse()) {
        open.push({ name: name === '' ? String(key) : `${name}.${String(key)}`, value: part });
      }
    }
  }
  return found;
}
