#pragma once
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "kernels/tensor.h"

namespace tangram {

class MappedFile;

/// How the elements of a tensor are stored. Q8_0 is blocks of 32 along a row, an f16 scale d = max |x| / 127 and 32
/// signed bytes q = round(x / d), so that
///
///   |x - d q| <= d (1/2 + 127 * 2^-11) <= max |x| / 225 over each block (and 2^-25 * 127 where d underflows)
enum class GgufType : uint32_t { f32 = 0, f16 = 1, q8_0 = 8, bf16 = 30 };

std::string_view name_of(GgufType type);
/// Whether rows of so many elements can be stored so.
bool can_store(GgufType type, int64_t cols);
/// Bytes of a row.
int64_t row_bytes(GgufType type, int64_t cols);
/// Stores a row, reads it back. f16 and bf16 round to nearest even.
void encode_row(char* out, GgufType type, std::span<const float> row);
void decode_row(std::span<float> out, GgufType type, const char* row);

/// A value of the metadata. Written as u32, f32, bool, string and arrays of i32, f32 and strings; read from any type of
/// that kind.
using GgufValue = std::variant<int64_t, double, bool, std::string, std::vector<int64_t>, std::vector<double>,
                               std::vector<std::string>>;
using GgufMetadata = std::vector<std::pair<std::string, GgufValue>>;

/// A tensor to write: `row` fills `out` (cols) with the values of row r, from several threads at once.
struct GgufTensor {
  std::string name;
  GgufType type;
  int64_t rows, cols;  ///< one row is written as a vector
  std::function<void(std::span<float> out, int64_t r)> row;
  Tensor mapped = {};  ///< (rows, cols) in memory mapped from a file, if rows come from there: given back once written
};

/// Writes a GGUF file of version 3 (github.com/ggml-org/ggml, docs/gguf.md): metadata and tensors in order, aligned to
/// 32 bytes, never more than a few MiB of them in memory. The same arguments give the same bytes. The file appears when
/// it is complete.
void write_gguf(const std::filesystem::path& path, const GgufMetadata& metadata, std::span<const GgufTensor> tensors,
                int threads);

/// A tensor of a file that is read: its bytes in the mapped file.
struct StoredTensor {
  GgufType type;
  int64_t rows, cols;
  const char* data;
};

/// A GGUF file, mapped.
struct GgufFile {
  std::string name;
  std::map<std::string, GgufValue> metadata;
  std::map<std::string, StoredTensor> tensors;
  std::shared_ptr<MappedFile> memory;

  /// Throws Error (bad_input) naming the nearest key or tensor if there is none, and what was found if it is of another
  /// kind or shape.
  template <class T>
  const T& at(const std::string& key) const {
    const GgufValue& value = value_at(key);
    if (const T* found = std::get_if<T>(&value)) return *found;
    throw bad_input("{}: key '{}' is of another kind than expected", name, key);
  }
  bool has(const std::string& key) const { return metadata.contains(key); }
  const StoredTensor& tensor(const std::string& tensor, int64_t rows, int64_t cols) const;

 private:
  const GgufValue& value_at(const std::string& key) const;
};

/// Reads the header of a GGUF file, version 2 or 3, little-endian. Throws Error (bad_input) with the file, and the key
/// or tensor, unless it is consistent: at most 2^16 keys and 2^16 tensors, names of at most 2^10 bytes, arrays without
/// arrays in them, tensors of at most two dimensions (others of size 1) and one of the types above, none twice, within
/// the file, aligned and not overlapping. Nothing is allocated by a number of the file before it is checked against
/// the bytes that are left.
GgufFile read_gguf(const std::filesystem::path& path);
/// The same of a file that stands in memory and outlives the result.
GgufFile parse_gguf(std::string_view file, const std::string& name);

}  // namespace tangram
