# The headers of cuDNN's graph API in C++, of one pinned wheel from PyPI, in ${CMAKE_BINARY_DIR}/cudnn_frontend. Sets
# TANGRAM_HAS_CUDNN; without the headers the build goes on, and attention runs on this project's own kernels.

set(TANGRAM_HAS_CUDNN OFF)
set(folder ${CMAKE_BINARY_DIR}/cudnn_frontend)
find_path(CUDNN_INCLUDE_DIR cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
if(CUDNN_INCLUDE_DIR AND NOT EXISTS ${folder}/include/cudnn_frontend.h)
  file(WRITE ${folder}/requirements.txt "nvidia-cudnn-frontend==1.32.0 \
--hash=sha256:c6006556017a4d1c914c52a556c71b1267f2d6a0500f742e7b4edef539878df0\n")
  execute_process(
    COMMAND python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all:
            --implementation cp --python-version 3.11 --abi cp311 --platform manylinux_2_28_x86_64
            --dest ${folder} --requirement ${folder}/requirements.txt
    RESULT_VARIABLE failed OUTPUT_VARIABLE reason ERROR_VARIABLE reason TIMEOUT 120)
  file(GLOB wheel ${folder}/nvidia_cudnn_frontend-*.whl)
  if(NOT failed AND wheel)
    file(ARCHIVE_EXTRACT INPUT ${wheel} DESTINATION ${folder} PATTERNS "include/*")
    file(REMOVE ${wheel})
  else()
    message(STATUS "No headers of cuDNN's frontend from PyPI: ${reason}")
  endif()
endif()
if(CUDNN_INCLUDE_DIR AND EXISTS ${folder}/include/cudnn_frontend.h)
  set(TANGRAM_HAS_CUDNN ON)
endif()
message(STATUS "cuDNN for training attention: ${TANGRAM_HAS_CUDNN}")
