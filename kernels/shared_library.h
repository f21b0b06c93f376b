#pragma once
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace tangram {

/// A library that is opened at run time, so that a binary starts where it is not installed. It stays open until the
/// process ends: what it keeps on a GPU may outlive the objects that called it.
class SharedLibrary {
 public:
  /// Opens the first of `names` ("libcublasLt.so.13") that is found, each where the dynamic linker looks
  /// (LD_LIBRARY_PATH, the binary's run paths, the system) and in cuda_library_folders(). Throws Error that names every
  /// place and says why each file was refused, and what to install (`advice`).
  SharedLibrary(const std::vector<std::string>& names, std::string_view advice);

  /// The function `name`, as `auto* f = library.function<decltype(&::f)>("f")`. Throws Error if the library has none.
  template <class F>
  F function(const char* name) const {
    return reinterpret_cast<F>(symbol(name));
  }
  /// The file that was opened.
  const std::string& path() const { return path_; }

 private:
  void* symbol(const char* name) const;
  void* handle_ = nullptr;
  std::string path_;
};

/// Where CUDA's libraries may lie, of the folders that exist: $CUDA_HOME and /usr/local/cuda, and what pip has
/// installed
/// ("site-packages/nvidia/cu13/lib") for the python3 that comes first on the PATH.
std::vector<std::filesystem::path> cuda_library_folders();

}  // namespace tangram
