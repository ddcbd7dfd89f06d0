# The stand-in for CUDA is in the same library as that for TensorRT.
if(NOT TARGET CUDA::cudart)
  add_library(CUDA::cudart INTERFACE IMPORTED)
endif()
set(CUDAToolkit_FOUND TRUE)
