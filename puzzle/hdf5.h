#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "blocks/file.h"

namespace tangram {

/// Owns one HDF5 identifier.
class Hdf5Id {
 public:
  using Close = int (*)(int64_t);

  Hdf5Id(int64_t id, Close close) : id_(id), close_(close) {}
  Hdf5Id(Hdf5Id&& other) noexcept : id_(other.id_), close_(other.close_) { other.id_ = -1; }
  Hdf5Id(const Hdf5Id&) = delete;
  Hdf5Id& operator=(const Hdf5Id&) = delete;
  Hdf5Id& operator=(Hdf5Id&&) = delete;
  ~Hdf5Id() {
    if (id_ >= 0) close_(id_);
  }
  operator int64_t() const { return id_; }

 private:
  int64_t id_;
  Close close_;
};

/// Writes a table of labelled arrays as a netCDF-4 file: named dimensions shared by the arrays, a coordinate array for
/// each of them, and `units`. h5dump, h5py, xarray and the netCDF tools show it with its labels.
///
/// An array whose only dimension has its own name is that dimension's coordinates and has to come before the arrays
/// over it; no array at all belongs to a dimension of length 0. Equal calls make equal bytes: the file holds no time
/// stamps. It is built in memory; nothing is on disk before `save`. Behind what HDF5 reads, the file ends in a line
/// with the SHA-256 of all bytes before it. Functions throw Error naming the file.
class Hdf5Writer {
 public:
  explicit Hdf5Writer(const std::filesystem::path& path);

  using Dimensions = std::vector<std::string>;
  void put(const std::string& name, const Dimensions& dimensions, std::span<const double> values,
           const std::map<std::string, std::string>& attributes = {});
  void put(const std::string& name, const Dimensions& dimensions, std::span<const int64_t> values,
           const std::map<std::string, std::string>& attributes = {});
  void put(const std::string& name, const Dimensions& dimensions, std::span<const std::string> values,
           const std::map<std::string, std::string>& attributes = {});
  void attribute(const std::string& name, const std::string& value);

  /// Puts the file in place under its name, whole and on disk, or not at all.
  void save();

 private:
  struct Use {  ///< an array's dimension, for the scale's list of references
    std::string array;
    int32_t axis;
  };
  struct Scale {
    uint64_t length;
    std::vector<Use> uses;
  };

  void put_array(const std::string& name, const Dimensions& dimensions, size_t count, int64_t memory_type,
                 int64_t file_type, const void* values, const std::map<std::string, std::string>& attributes);
  void write_references();

  std::filesystem::path path_;
  Hdf5Id file_;
  std::map<std::string, Scale> scales_;
};

/// The line with the digest, at the end of a file's bytes.
void seal(std::string& image);

/// Reads arrays of a file that may be damaged or hostile. One that does not end in the digest of its bytes is refused
/// before HDF5 sees it, which takes many a changed byte for a value; and HDF5 only says where an array lies: numbers
/// and texts are read from the bytes there. An array has the shape that the caller expects. Arrays that are linked from
/// elsewhere, in pieces or another file, or of another type are refused. Functions throw Error (bad_input) naming the
/// file, the array, what was found and what is allowed.
class Hdf5Reader {
 public:
  explicit Hdf5Reader(const std::filesystem::path& path);

  bool has(const std::string& name) const;
  /// Length of the one-dimensional array `name`, or 0 if there is none.
  size_t length(const std::string& name) const;
  std::vector<double> doubles(const std::string& name, const std::vector<size_t>& shape) const;
  std::vector<int64_t> integers(const std::string& name, const std::vector<size_t>& shape) const;
  std::vector<std::string> strings(const std::string& name, const std::vector<size_t>& shape) const;
  /// All attributes of the file that are strings.
  std::map<std::string, std::string> attributes() const;

 private:
  Hdf5Id open(const std::string& name) const;
  std::string_view bytes_at(const std::string& name, uint64_t at, uint64_t count) const;
  std::string_view values_of(const std::string& name, const std::vector<size_t>& shape, int64_t type) const;
  std::string_view text_at(const std::string& name, std::string_view reference) const;

  std::filesystem::path path_;
  MappedFile image_;
  Hdf5Id file_;
};

}  // namespace tangram
