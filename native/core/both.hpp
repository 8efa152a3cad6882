// Marks functions that are compiled for processors and for GPUs.
#pragma once

#ifdef __CUDACC__
#define FUSCO_BOTH __host__ __device__
#else
#define FUSCO_BOTH
#endif
