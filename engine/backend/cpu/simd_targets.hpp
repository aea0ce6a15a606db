// Which instruction sets the kernels are compiled for. Include before any Highway header.
//
// One vector target for each machine generation that matters and the portable one, which runs
// everywhere (EMU128, or SCALAR with compilers that miscompile it): every further target would
// multiply build time for machines nobody serves from. AVX3_DL, which is AVX-512 with dot products
// of bytes, is compiled only in files that define HWY_WANT_AVX3_DL.
#pragma once

#define HWY_DISABLED_TARGETS \
  (~(HWY_AVX3_DL | HWY_AVX3 | HWY_AVX2 | HWY_NEON | HWY_EMU128 | HWY_SCALAR))
