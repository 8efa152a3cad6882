#include "one_pass_move_device.cuh"

namespace fusco::cuda {

cudaError_t launchMove(const MoveParams &params, const OnePassGrid &grid, cudaStream_t stream) {
  using one_pass_move::Tuning;
  return launchOnePass<one_pass_move::Shared<Tuning>>(one_pass_move::moveKernel<Tuning>, params, grid,
                                                      Tuning::warps, stream);
}

}  // namespace fusco::cuda
