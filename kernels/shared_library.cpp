#include "kernels/shared_library.h"

#include <dlfcn.h>
#include <glob.h>
#include <link.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include "kernels/error.h"

namespace tangram {
namespace fs = std::filesystem;
namespace {

void add_matches(std::vector<fs::path>& folders, const std::string& pattern) {
  glob_t matches{};
  if (glob(pattern.c_str(), GLOB_ONLYDIR, nullptr, &matches) == 0)
    for (size_t i = 0; i < matches.gl_pathc; ++i) {
      const fs::path folder = matches.gl_pathv[i];
      if (std::find(folders.begin(), folders.end(), folder) == folders.end()) folders.push_back(folder);
    }
  globfree(&matches);
}

/// The folder of the first python3 on the PATH; empty without one.
fs::path python_folder() {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path ? path : "");
  for (std::string folder; std::getline(folders, folder, ':');)
    if (std::error_code error; !folder.empty() && fs::exists(fs::path(folder) / "python3", error)) return folder;
  return {};
}

std::string path_of(void* handle, const std::string& name) {
  const link_map* map = nullptr;
  return dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0 && map->l_name[0] ? map->l_name : name;
}

}  // namespace

std::vector<fs::path> cuda_library_folders() {
  std::vector<fs::path> folders;
  if (const char* home = std::getenv("CUDA_HOME")) add_matches(folders, std::string(home) + "/lib64");
  add_matches(folders, "/usr/local/cuda/lib64");
  const fs::path bin = python_folder();
  if (bin.empty()) return folders;
  // A virtual environment's own packages come first; then those of the Python that its `python3` is a link to.
  std::error_code error;
  for (const fs::path& prefix : {bin.parent_path(), fs::canonical(bin / "python3", error).parent_path().parent_path()})
    for (const char* library : {"lib", "local/lib"})
      for (const char* packages : {"site-packages", "dist-packages"})
        add_matches(folders, fmt::format("{}/{}/python3*/{}/nvidia/*/lib", prefix.string(), library, packages));
  return folders;
}

SharedLibrary::SharedLibrary(const std::vector<std::string>& names, std::string_view advice) {
  std::string refused;
  const auto open = [&](const std::string& file) {
    handle_ = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle_)
      path_ = path_of(handle_, file);
    else
      refused += fmt::format("\n  {}", dlerror());
    return handle_ != nullptr;
  };
  for (const std::string& name : names)
    if (open(name)) return;
  const std::vector<fs::path> folders = cuda_library_folders();
  std::string places;
  for (const fs::path& folder : folders) {
    places += fmt::format("\n  {}", folder.string());
    for (const std::string& name : names)
      if (std::error_code error; fs::exists(folder / name, error) && open(folder / name)) return;
  }
  throw Error(fmt::format("no library {} can be opened; {}\nThe dynamic linker says:{}\nFolders that were searched:{}",
                          fmt::join(names, " or "), advice, refused, places.empty() ? "\n  none exists" : places));
}

void* SharedLibrary::symbol(const char* name) const {
  void* address = dlsym(handle_, name);
  CHECK(address, "{} has no function {}", path_, name);
  return address;
}

}  // namespace tangram
