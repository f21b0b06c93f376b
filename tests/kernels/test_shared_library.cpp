#include "kernels/shared_library.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "kernels/cuda_devices.h"
#include "kernels/error.h"
#if TANGRAM_HAS_CUDA
#include <cublasLt.h>
#endif

namespace tangram {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

/// A folder that is thrown away, and environment variables that come back.
class SharedLibraries : public testing::Test {
 protected:
  SharedLibraries() : folder_(fs::temp_directory_path() / ("tangram-library-" + std::to_string(getpid()))) {
    fs::create_directories(folder_);
    for (const char* name : {"PATH", "CUDA_HOME"})
      if (const char* value = std::getenv(name)) before_.emplace_back(name, value);
    unsetenv("CUDA_HOME");
  }
  ~SharedLibraries() override {
    unsetenv("CUDA_HOME");
    for (const auto& [name, value] : before_) setenv(name.c_str(), value.c_str(), 1);
    fs::remove_all(folder_);
  }
  fs::path make_folder(const fs::path& name) {
    fs::create_directories(folder_ / name);
    return folder_ / name;
  }
  const fs::path folder_;

 private:
  std::vector<std::pair<std::string, std::string>> before_;
};

bool searched(const fs::path& folder) {
  const std::vector<fs::path> folders = cuda_library_folders();
  return std::find(folders.begin(), folders.end(), folder) != folders.end();
}

TEST_F(SharedLibraries, OneThatTheLinkerFindsIsOpened) {
  const SharedLibrary library({"libnone.so.1", "libm.so.6"}, "");
  EXPECT_THAT(library.path(), HasSubstr("libm.so.6"));
  EXPECT_EQ(library.function<double (*)(double)>("floor")(2.5), 2);
  EXPECT_THROW(library.function<void (*)()>("no_such_function"), Error);
}

TEST_F(SharedLibraries, TheFoldersOfCudaAreSearched) {
  const fs::path folder = make_folder("cuda/lib64");
  fs::copy_file(SharedLibrary({"libm.so.6"}, "").path(), folder / "libtangram_test.so.1");
  setenv("CUDA_HOME", (folder_ / "cuda").c_str(), 1);
  EXPECT_EQ(SharedLibrary({"libtangram_test.so.1"}, "").path(), folder / "libtangram_test.so.1");
}

TEST_F(SharedLibraries, TheWheelsOfThePythonOnThePathAreSearched) {
  const fs::path bin = make_folder("venv/bin"), other = make_folder("other/bin");
  const fs::path wheel = make_folder("venv/lib/python3.12/site-packages/nvidia/cu13/lib");
  const fs::path base = make_folder("base/lib/python3.12/site-packages/nvidia/cudnn/lib");
  fs::copy_file("/bin/sh", make_folder("base/bin") / "python3");
  fs::create_symlink(folder_ / "base/bin/python3", bin / "python3");
  EXPECT_FALSE(searched(wheel));
  setenv("PATH", (other.string() + ":" + bin.string()).c_str(), 1);
  EXPECT_TRUE(searched(wheel));
  EXPECT_TRUE(searched(base)) << "the packages of the Python that the environment was made from";
}

TEST_F(SharedLibraries, OneThatIsNowhereIsNamedWithThePlacesAndTheAdvice) {
  const fs::path folder = make_folder("cuda/lib64");
  fs::create_symlink("/dev/null", folder / "libnone.so.1");
  setenv("CUDA_HOME", (folder_ / "cuda").c_str(), 1);
  try {
    SharedLibrary library({"libnone.so.1", "libnone.so"}, "install none");
    FAIL() << "it was opened";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("libnone.so.1 or libnone.so"));
    EXPECT_THAT(e.what(), HasSubstr("install none"));
    EXPECT_THAT(e.what(), HasSubstr("\n  " + folder.string()));
    EXPECT_THAT(e.what(), HasSubstr((folder / "libnone.so.1").string() + ": ")) << "why the file was refused";
  }
}

#if TANGRAM_HAS_CUDA
TEST_F(SharedLibraries, CublasLtIsOpenedWhenItIsFirstCalled) {
  size_t version = 0;
  try {
    version = cublasLtGetVersion();
  } catch (const Error& e) {
    GTEST_SKIP() << e.what();
  }
  EXPECT_EQ(version / 10000, size_t{CUBLAS_VER_MAJOR});
  cublasLtMatmulDesc_t desc = nullptr;
  ASSERT_EQ(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(cublasLtMatmulDescDestroy(desc), CUBLAS_STATUS_SUCCESS);
  EXPECT_THAT(cublasLtGetStatusString(CUBLAS_STATUS_NOT_SUPPORTED), HasSubstr("not supported"));
}
#endif

}  // namespace
}  // namespace tangram
