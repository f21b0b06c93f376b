#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "blocks/config.h"
#include "kernels/attention.h"
#include "kernels/matmul.h"
#include "kernels/norm_matmul.h"

namespace tangram {

enum class Subblock : uint8_t { attention, ffn };

/// Which axis of a parameter is divided over tensor-parallel ranks.
enum class SplitAxis : uint8_t { none, rows, cols };

/// A parameter of a subblock: its checkpoint name below `self_attn.` or `mlp.`, and its shape (rows, cols).
struct ParamSpec {
  std::string name;
  int64_t rows, cols;
  SplitAxis split;
  bool input;  ///< multiplies the subblock's normalised input; input parameters come first
};

/// One tensor (N, cols) that forward keeps for backward.
struct SavedSpec {
  int64_t cols;
  bool f32;  ///< f32 whatever the compute dtype is
};

/// What a variant costs at inference beyond its parameters.
struct Cost {
  double flops_per_token;     ///< of the matrix products, without attention over the context
  int64_t kv_elements;        ///< cached elements a token, keys and values together
  int64_t kv_tokens_at_most;  ///< how many tokens of a sequence are ever looked at again
};

/// The sequences of a batch. Sequence s brings the tokens of rows offsets[s] to offsets[s + 1]; the first stands at
/// position past[s].
struct Sequences {
  Indices offsets;  ///< (S + 1)
  Indices past;     ///< (S); all 0 in training
  Tensor rope;      ///< (N, D) f32, from rope_angles
};

/// One layer's part of a KV cache, with the page table of the batch. Empty for a variant that caches nothing.
struct LayerCache {
  KvPages pages;
  PageTable table;
  /// New tokens of a sequence that may be written before attention looks at them. Where it is limited, the pages of a
  /// sequence are a ring (kv_cache.h): those of sequence s are rows [s R, (s + 1) R), in the order of the first one's.
  int64_t tokens_at_once = std::numeric_limits<int64_t>::max();
};

/// A subblock's shape: the teacher's config and the variant's own size.
struct VariantShape {
  const ModelConfig& config;
  int64_t size;
};

using Params = std::span<const Weight>;
using Grads = std::span<const Tensor>;  ///< f32, one for each parameter, accumulated
using Saved = std::span<const Tensor>;

/// How a variant starts from the teacher's parameters.
enum class Init : uint8_t {
  prune,          ///< channels by contribution, KV heads by mean, `linear` by the product of matrices
  least_squares,  ///< prune, then the closed-form solution for the matrix that writes to the residual stream
  random,         ///< normal with the teacher's standard deviation: the control of an ablation
};

/// Statistics of one layer's teacher activations, over the calibration tokens (`prepare`). x is a subblock's
/// normalised input, y its output, h = silu(gate) * up.
struct SubblockStatistics {
  double tokens = 0;
  Tensor xx;            ///< (H, H) f32  mean of x x^T
  Tensor xy;            ///< (H, H) f32  mean of x y^T
  Tensor hh;            ///< (I, I) f32  mean of h h^T; FFN only
  Tensor contribution;  ///< (1, I) f32  mean |h_i| * ||w_down[:, i]||; FFN only
};

struct InitInputs {
  Init method;
  uint64_t seed;                         ///< of Init::random
  const SubblockStatistics* statistics;  ///< may be null for Init::random and for a copy of the teacher
};

/// One kind of subblock: everything that search, distillation and serving ask of it. One constant in one file of
/// blocks/variants/, and the folder is the registry.
///
/// A variant sees the normalised input x (N, H) and returns y (N, H), which the block adds to the residual stream;
/// under tensor parallelism y is a partial sum. In training, norm and addition are the block's; at inference the
/// variant does them as it goes, where a GPU makes them part of its products. Functions are pure: all state is in their
/// arguments.
///
/// Training is in two parts, so that all variants of a subblock share one product with their common input:
///   proj (N, P) = x w_in^T, where w_in stacks the rows of the `input` parameters and P counts them    (the caller)
///   forward:  y from proj;  backward: dproj from dy                                                 (the variant)
///   dw_in += dproj^T x, and dx = dproj w_in where somebody needs it                                   (the caller)
struct Variant {
  std::string_view name;  ///< written into configs, reports and architectures; never renamed
  Subblock subblock;
  bool sized;  ///< spelled <name>_<size>; otherwise size is 0
  bool no_op;  ///< contributes nothing, and the norm before it is absent; forward, backward and infer are null

  /// Throws Error naming the sizes that are allowed.
  void (*check_size)(const ModelConfig&, int64_t size);
  std::vector<ParamSpec> (*params)(VariantShape);
  std::vector<SavedSpec> (*saved)(VariantShape);
  Cost (*cost)(VariantShape);

  /// Fills `child` (f32 or bf16) from the parameters of the teacher's own subblock. At the teacher's own size the copy
  /// is exact, whatever the method (but random).
  void (*init_from_teacher)(std::span<const Weight> child, std::span<const Weight> teacher, VariantShape,
                            const InitInputs&, Context&);

  /// y (N, H) from proj (N, P), which may be changed in place (rotated). `saved` has the declared tensors.
  void (*forward)(Tensor y, Tensor proj, Saved, Params, VariantShape, const Sequences&, Context&);
  /// dproj (N, P) is overwritten and must not overlap proj; grads of parameters that are not `input` are accumulated.
  void (*backward)(Tensor dproj, Grads, Tensor dy, Tensor proj, Saved, Params, VariantShape, const Sequences&,
                   Context&);
  /// Inference on a ragged batch, y (N, H) += what the variant makes of x (N, H), which may be y: writes the new tokens
  /// to the cache and looks at everything in it. A sequence that brings one token is a decode, one that brings many a
  /// prefill; a batch may mix them.
  void (*infer)(Tensor y, const Normed& x, Params, VariantShape, const LayerCache&, const Sequences&, Context&);
};

/// Every variant of blocks/variants/, in alphabetical order of file name.
std::span<const Variant* const> all_variants();

/// A variant at a size, as configs spell it: `gqa_4`, `ffn_14336`, `linear`, `no_op`.
struct Choice {
  const Variant* variant = nullptr;
  int64_t size = 0;

  std::string name() const;
  /// Whether it is of the kind `name`: is("gqa") of gqa_4.
  bool is(std::string_view kind) const { return variant->name == kind; }
  bool operator==(const Choice&) const = default;
};

/// The choice that `text` spells for a subblock of `config`, with its size checked. For the FFN, `text` may be a ratio
/// of the teacher's width I, such as `0.5`, rounded to the nearest multiple of 256, which every kernel and format
/// likes; or of the largest of 128, 64, … that divides I and is at most I / 16, so that ratios keep apart; or else
/// of 4. Throws Error naming the known ones.
Choice parse_choice(Subblock subblock, std::string_view text, const ModelConfig& config);

/// The teacher's own subblock: gqa at its KV heads, ffn at its width.
Choice teacher_choice(Subblock subblock, const ModelConfig& config);

/// Rows of all `input` parameters together: the columns of `proj`.
int64_t projection_size(const Choice& choice, const ModelConfig& config);

/// Elements of all parameters of the subblock, without its norm.
int64_t parameter_count(const Choice& choice, const ModelConfig& config);

std::string_view name_of(Subblock subblock);

}  // namespace tangram
