#include "kernels/head_loss_tile.h"
#include "tests/kernels/cuda_test.h"

namespace tangram {
namespace {

/// N tokens and a vocabulary of C, cut into two chunks where `chunk` is not 0.
struct Logits {
  Tensor student, teacher;
  std::vector<int32_t> targets;
  std::vector<float> weights;
};

class CudaHeadLoss : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (!gpu) return;  // skipped
    gpu = std::make_unique<Context>(Context::Options{.device = Device::cuda, .scratch_bytes = 64 << 20});
  }
  // Logits of a spread that models have; one row whose student is the teacher, one of many equal logits.
  Logits make_logits() {
    Logits x{host(p.N, p.C, DType::f32, 1), host(p.N, p.C, DType::f32, 2), {}, {}};
    for (int64_t n = 0; n < p.N; ++n) {
      for (int64_t v = 0; v < p.C; ++v) {
        if (n % 4 == 2) set(x.student, n, v, double(v % 3));
        set(x.student, n, v, 5 * get(x.student, n, v) - 20);
        set(x.teacher, n, v, n % 4 == 1 ? get(x.student, n, v) : 5 * get(x.teacher, n, v) + 7);
      }
      x.targets.push_back(n % 5 == 3 ? -1 : int32_t(random_below(uint64_t(p.C), 3, 0, uint64_t(n))));
      x.weights.push_back(0.25f * float(n % 4));
    }
    return x;
  }
  HeadLosses make_losses(Arena& from) {
    const auto result = [&](DType dtype) { return from.tensor(1, p.N, dtype); };
    return {result(DType::f32), result(DType::f32), result(DType::i32), result(DType::i32)};
  }
  // Losses differ by the rounding of sums over f32 segments; logits are within 40.
  void expect_losses(const HeadLosses& found, const HeadLosses& expected) {
    expect_near(found.cross_entropy, expected.cross_entropy, "cross-entropy");
    expect_near(found.kl, expected.kl, "kl");
    const auto expect_same = [&](Tensor f, Tensor e, const char* what) {
      EXPECT_TRUE(!f.data || same_bytes(download(f), e)) << what;
    };
    expect_same(found.greedy, expected.greedy, "greedy");
    expect_same(found.teacher_rank, expected.teacher_rank, "teacher_rank");
  }
  void expect_near(Tensor found, Tensor expected, const char* what) {
    if (!found.data) return;
    const Tensor f = download(found);
    for (int64_t n = 0; n < f.cols; ++n)
      ASSERT_NEAR(get(f, 0, n), get(expected, 0, n), 64 * 0x1p-24 * 40) << what << " of token " << n;
  }
};

TEST_P(CudaHeadLoss, LogitsMatchCpu) {
  const HeadObjective objective{.cross_entropy_scale = 0.6f, .kl_scale = 0.9f, .weights = {}};
  const Logits x = make_logits();
  const Tensor gstudent = upload(x.student), gteacher = upload(x.teacher);
  const Indices gtargets = send(x.targets, *memory, *gpu);
  const Tensor gweights = upload(view_of(x.weights.data(), 1, p.N));
  for (const int64_t chunk : {p.C, (p.C + 1) / 2})
    for (const bool with_teacher : {true, false}) {
      const TileTokens here{arena.tensor(p.N, token_state_bytes(Device::cpu), DType::u8), x.targets.data(),
                            x.weights.data()};
      const TileTokens there{memory->tensor(p.N, token_state_bytes(Device::cuda), DType::u8), gtargets.on_device(*gpu),
                             gweights.as<float>()};
      const auto part = [&](Tensor student, Tensor teacher, int64_t first) {
        const int64_t count = std::min(chunk, p.C - first);
        return LogitTile{student.col_range(first, count), with_teacher ? teacher.col_range(first, count) : Tensor{},
                         first};
      };
      HeadLosses losses = make_losses(arena), glosses = make_losses(*memory);
      if (!with_teacher) losses.kl = losses.teacher_rank = glosses.kl = glosses.teacher_rank = {};
      for (int64_t v = 0; v < p.C; v += chunk) {
        add_logits(here, part(x.student, x.teacher, v), true, cpu);
        add_logits(there, part(gstudent, gteacher, v), true, *gpu);
      }
      write_losses(losses, here, cpu);
      write_losses(glosses, there, *gpu);
      expect_losses(glosses, losses);
      for (int64_t n = 1; n < p.N && with_teacher; n += 4)
        EXPECT_EQ(get(download(glosses.kl), 0, n), 0) << "of a model compared with itself";

      HeadObjective o = objective;
      if (!with_teacher) o.kl_scale = 0;
      const Tensor dl = arena.tensor(p.N, p.C, p.dtype), gdl = upload(host(p.N, p.C, p.dtype, 4));
      for (int64_t v = 0; v < p.C; v += chunk) {
        const int64_t count = std::min(chunk, p.C - v);
        write_gradient(dl.col_range(v, count), part(x.student, x.teacher, v), here, o, cpu);
        write_gradient(gdl.col_range(v, count), part(gstudent, gteacher, v), there, o, *gpu);
      }
      expect_close(gdl, dl, 64, "dlogits");
    }
}

TEST_P(CudaHeadLoss, GradientInPlaceOfTheLogits) {
  const Logits x = make_logits();
  const Tensor gstudent = upload(x.student), gteacher = upload(x.teacher), dl = arena.tensor(p.N, p.C, DType::f32);
  const TileTokens here{arena.tensor(p.N, token_state_bytes(Device::cpu), DType::u8), nullptr, nullptr};
  const TileTokens there{memory->tensor(p.N, token_state_bytes(Device::cuda), DType::u8), nullptr, nullptr};
  const LogitTile logits{x.student, x.teacher, 0}, glogits{gstudent, gteacher, 0};
  add_logits(here, logits, false, cpu);
  add_logits(there, glogits, false, *gpu);
  write_losses({}, here, cpu);
  write_losses({}, there, *gpu);
  write_gradient(dl, logits, here, {.kl_scale = 2}, cpu);
  write_gradient(gstudent, glogits, there, {.kl_scale = 2}, *gpu);
  expect_close(gstudent, dl, 64, "dlogits");
}

// Products included: tiles of all tokens and of few, the vocabulary whole and in chunks.
TEST_P(CudaHeadLoss, WholeMatchesCpu) {
  constexpr int64_t kHidden = 24, kTeacherHidden = 16;
  const auto head = [&](int64_t H, uint64_t seed) {
    const Head h{host(p.N, H, p.dtype, seed), host(p.C, H, p.dtype, seed + 1)};
    return std::pair{h, Head{upload(h.hidden), upload(h.weight.values)}};
  };
  const auto [student, gstudent] = head(kHidden, 1);
  const auto [teacher, gteacher] = head(kTeacherHidden, 3);
  const Logits x = make_logits();
  const HeadObjective objective{.cross_entropy_scale = 0.6f, .kl_scale = 0.9f, .weights = x.weights};
  for (const int64_t tile_bytes : {int64_t{0}, int64_t{16 << 10}}) {
    const HeadInputs in{student, teacher, x.targets, tile_bytes}, gin{gstudent, gteacher, x.targets, tile_bytes};
    const HeadLosses losses = make_losses(arena), glosses = make_losses(*memory);
    const Tensor dhidden = arena.tensor(p.N, kHidden, p.dtype), dweight = host(p.C, kHidden, DType::f32, 5);
    const Tensor gdhidden = upload(student.hidden), gdweight = upload(dweight);
    head_loss_forward_backward(losses, dhidden, dweight, in, objective, cpu);
    head_loss_forward_backward(glosses, gdhidden, gdweight, gin, objective, *gpu);
    expect_near(glosses.cross_entropy, losses.cross_entropy, "cross-entropy");
    expect_near(glosses.kl, losses.kl, "kl");
    // dlogits sum up to at most 2 (0.6 + 0.9) a token in magnitude, and what they meet is below 5. A last bit of
    // theirs may differ, which is 2^-8 of them in bf16.
    const double terms = p.dtype == DType::f32 ? 64 + double(p.C) : 0x1p16;
    expect_close(gdhidden, dhidden, terms, "dhidden", 15);
    expect_close(gdweight, dweight, terms, "dweight", 15 * double(p.N));
    const HeadLosses again = make_losses(*memory);
    head_loss_forward({again.cross_entropy, again.kl, again.greedy, again.teacher_rank}, gin, *gpu);
    EXPECT_TRUE(same_bytes(download(again.greedy), download(glosses.greedy)));
    EXPECT_TRUE(same_bytes(download(again.teacher_rank), download(glosses.teacher_rank)));
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaHeadLoss,
                         testing::Values(CudaShape{0, 8, DType::f32, true}, CudaShape{1, 1, DType::f32, true},
                                         CudaShape{5, 7, DType::f32, false}, CudaShape{6, 128, DType::bf16, true},
                                         CudaShape{3, 1029, DType::f32, false}, CudaShape{3, 4104, DType::bf16, true},
                                         CudaShape{70, 24, DType::bf16, true}, CudaShape{9, 515, DType::bf16, false}));

}  // namespace
}  // namespace tangram
