#pragma once
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/context.h"

namespace tangram {

struct NamedTensor;  // blocks/model.h

/// The tensors of a safetensors file, or of all shards of a folder, as views of the mapped files: nothing is copied,
/// and nothing may be written to them.
struct SafeTensors {
  std::string name;                       ///< of the file or folder, for messages
  std::map<std::string, Tensor> tensors;  ///< a vector (n) is (1, n), a scalar (1, 1)
  std::map<std::string, std::string> metadata;
  std::vector<std::shared_ptr<void>> memory;  ///< what the views look at

  /// The tensor called `tensor`. Throws Error (bad_input) naming the nearest one if there is none, and the shape found
  /// if it is not (rows, cols).
  Tensor at(const std::string& tensor, int64_t rows, int64_t cols) const;
};

/// Reads the header of a safetensors file that stands in memory: 8 bytes of header length, little-endian; a JSON header
/// of dtypes, shapes and offsets; the data (github.com/huggingface/safetensors). Views look at `file`, but for tensors
/// that are not aligned to their elements: those are copied.
///
/// Throws Error (bad_input) with `name` and the tensor unless the tensors cover the data exactly once, their sizes
/// agree with shape and dtype, they are F32, F16, BF16, I32, I64 or U8, and of at most two dimensions. The header has
/// at most 100,000,000 bytes, as in the reference reader, and no name twice.
SafeTensors parse_safetensors(std::string_view file, const std::string& name);

SafeTensors read_safetensors(const std::filesystem::path& path);

/// The checkpoint of a Hugging Face folder: `model.safetensors`, or the shards that `model.safetensors.index.json`
/// lists. Throws Error also if the index and the shards disagree, or if it names a file outside of the folder.
SafeTensors read_safetensors_folder(const std::filesystem::path& folder);

/// Writes tensors to one file, in order but elements of larger dtypes first, so that all are aligned; the data starts
/// at a multiple of 64 bytes. A tensor of one row is written as a vector. The same tensors give the same bytes. The
/// metadata is `{"format": "pt"}` and what is given. The file appears when it is complete; see AtomicFile for errors.
/// Tensors of a GPU need its context. With `release`, memory that is mapped from files is given back as soon as it was
/// written.
void write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata = {}, Context* ctx = nullptr,
                       bool release = false);

/// The bytes of a file before its data, for data that is never in memory as a whole: it follows in the order of
/// `tensors`, of which only names, shapes and dtypes count.
std::string safetensors_header(std::span<const NamedTensor> tensors,
                               const std::map<std::string, std::string>& metadata = {});

/// Writes a checkpoint that read_safetensors_folder reads: one file if all tensors fit in `max_shard_bytes`, else
/// shards of at most that size and, last, their index. A group stays together in one shard, even if that is then
/// larger. With `release`, memory that is mapped from files is given back as soon as it was written.
void write_safetensors_folder(const std::filesystem::path& folder, std::span<const std::vector<NamedTensor>> groups,
                              int64_t max_shard_bytes, bool release = false);

}  // namespace tangram
