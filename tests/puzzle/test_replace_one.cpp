#include "puzzle/replace_one.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "tests/own_sequences.h"
#include "tests/small_model.h"

namespace tangram {
namespace {

struct Case {
  Model teacher = small_teacher();
  Context ctx{Context::Options{.threads = 2}};
  std::vector<int32_t> tokens, targets, lengths{8, 3, 5};
  ScoringBatch batch;

  Case() {
    for (uint64_t i = 0; i < 16; ++i) tokens.push_back(int32_t(random_below(23, 1, 2, i)));
    for (size_t i = 0; i < 16; ++i) targets.push_back(i == 7 || i == 10 || i == 15 ? -1 : tokens[i + 1]);
    batch = {tokens, targets, lengths, 8};
  }

  // A replacement with random weights of its own.
  LibraryEntry entry(int64_t layer, const char* attention, const char* ffn, int64_t layers = 1) {
    LibraryEntry e{.replacement = {.first_layer = layer, .layer_count = layers, .attention = {}, .ffn = {}},
                   .attention = {},
                   .ffn = {},
                   .memory = {}};
    auto arena = std::make_shared<Arena>(1 << 20);
    e.memory.push_back(arena);
    for (Subblock s : {Subblock::attention, Subblock::ffn}) {
      const char* name = s == Subblock::attention ? attention : ffn;
      if (!name) continue;
      const Choice choice = parse_choice(s, name, teacher.config);
      e.replacement.of(s) = choice;
      e.of(s) = make_weights(choice, teacher.config, DType::f32, *arena);
      if (!choice.variant->no_op) copy(e.of(s)->norm, teacher.blocks[0].attention.norm);
      uint64_t stream = 40;
      for (const Weight& w : e.of(s)->params) {
        for (int64_t i = 0; i < w.values.size(); ++i)
          w.values.as<float>()[i] = float(0.2 * random_normal(6, stream, uint64_t(i)));
        ++stream;
      }
    }
    return e;
  }

  SequenceMetrics naively(const LibraryEntry& e) {
    const Model student = assemble(teacher, std::span(&e, 1));
    const OwnSequences sequences(teacher.config, lengths);
    Arena arena(1 << 20);
    const Tensor of_student = arena.tensor(16, 32, DType::f32), of_teacher = arena.tensor(16, 32, DType::f32);
    model_hidden(of_student, student, tokens, sequences.view(), ctx);
    model_hidden(of_teacher, teacher, tokens, sequences.view(), ctx);
    return sequence_metrics(of_student, student, of_teacher, teacher, batch, ctx);
  }
};

// Oracle: the whole student, assembled and run from the embedding on, without anything computed before.
TEST(ReplaceOne, EqualsTheNaiveComputationBitForBit) {
  Case c;
  ReplaceOneScorer scorer(c.teacher, 16, c.ctx);
  scorer.start_batch(c.batch);
  for (int64_t layer = 0; layer < 3; ++layer)
    for (const auto& [attention, ffn] : std::vector<std::pair<const char*, const char*>>{{"gqa_1", nullptr},
                                                                                         {"linear", nullptr},
                                                                                         {"no_op", nullptr},
                                                                                         {"window_2", nullptr},
                                                                                         {nullptr, "ffn_8"},
                                                                                         {nullptr, "linear"},
                                                                                         {nullptr, "no_op"},
                                                                                         {"no_op", "ffn_48"},
                                                                                         {"gqa_2", "ffn_4"}}) {
      const LibraryEntry e = c.entry(layer, attention, ffn);
      const SequenceMetrics scored = scorer.score(e), naive = c.naively(e);
      ASSERT_EQ(scored.size(), 2u);
      EXPECT_EQ(scored, naive) << layer << " " << e.replacement.name();
      EXPECT_GT(scored[0][size_t(Metric::kl_divergence)], 1e-4) << "a replacement that changes nothing tests nothing";
    }
}

TEST(ReplaceOne, ASpanStandsForAllItsLayers) {
  Case c;
  ReplaceOneScorer scorer(c.teacher, 16, c.ctx);
  scorer.start_batch(c.batch);
  for (const auto& [first, layers] : {std::pair<int64_t, int64_t>{0, 2}, {1, 2}, {0, 3}})
    for (const auto& [attention, ffn] : {std::pair("gqa_1", "ffn_8"), {"no_op", "no_op"}}) {
      const LibraryEntry e = c.entry(first, attention, ffn, layers);
      EXPECT_EQ(scorer.score(e), c.naively(e)) << e.replacement.layers() << " " << e.replacement.name();
      EXPECT_EQ(int64_t(assemble(c.teacher, std::span(&e, 1)).blocks.size()), 4 - layers);
    }
}

// Oracle: as above, of students with a span and a pair, in which any run of subblocks is exchanged for others.
TEST(ReplaceOne, ScoresInTheContextOfAStudent) {
  Case c;
  const std::vector<LibraryEntry> parts{c.entry(0, "gqa_1", "ffn_8", 2), c.entry(2, "linear", "ffn_24")};
  const Model student = assemble(c.teacher, parts);
  ASSERT_EQ(student.blocks.size(), 2u);
  ReplaceOneScorer scorer(c.teacher, student, 16, c.ctx);
  scorer.start_batch(c.batch);
  const auto naively = [&](const Model& model) {
    const OwnSequences sequences(c.teacher.config, c.lengths);
    Arena arena(1 << 20);
    const Tensor of_student = arena.tensor(16, 32, DType::f32), of_teacher = arena.tensor(16, 32, DType::f32);
    model_hidden(of_student, model, c.tokens, sequences.view(), c.ctx);
    model_hidden(of_teacher, c.teacher, c.tokens, sequences.view(), c.ctx);
    return sequence_metrics(of_student, model, of_teacher, c.teacher, c.batch, c.ctx);
  };
  for (size_t at = 0; at <= 4; ++at) EXPECT_EQ(scorer.score(at, at, {}), naively(student)) << at;
  const LibraryEntry ffn = c.entry(1, nullptr, "ffn_4");
  Model narrower = student;
  narrower.blocks[1].ffn = *ffn.ffn;
  EXPECT_EQ(scorer.score(3, 4, {{*ffn.ffn}}), naively(narrower));
  // The span's two layers come back.
  std::vector<SubblockWeights> own;
  for (const size_t layer : {0, 1})
    for (const Subblock s : {Subblock::attention, Subblock::ffn}) own.push_back(c.teacher.blocks[layer].of(s));
  EXPECT_EQ(scorer.score(0, 2, own), naively(assemble(c.teacher, std::span(parts).subspan(1))));
  EXPECT_EQ(scorer.teacher_metrics()[0][size_t(Metric::top_1)], 1);
  EXPECT_THROW(scorer.score(3, 5, {}), Error);
}

TEST(ReplaceOne, TeacherAgreesWithItself) {
  Case c;
  ReplaceOneScorer scorer(c.teacher, 16, c.ctx);
  scorer.start_batch(c.batch);
  for (const MetricValues& m : scorer.teacher_metrics()) {
    EXPECT_EQ(m[size_t(Metric::kl_divergence)], 0);
    EXPECT_EQ(m[size_t(Metric::top_1)], 1);
    EXPECT_NEAR(m[size_t(Metric::hidden_cosine)], 0, 1e-7);
    EXPECT_GT(m[size_t(Metric::lm_loss)], 1);
  }
}

// log p[n,v] of every token, in f64 from the whole logits.
std::vector<std::vector<double>> log_probabilities(Case& c, const Model& model) {
  const OwnSequences sequences(c.teacher.config, c.lengths);
  Arena arena(1 << 20);
  const Tensor hidden = arena.tensor(16, 32, DType::f32), logits = arena.tensor(16, 23, DType::f32);
  model_hidden(hidden, model, c.tokens, sequences.view(), c.ctx);
  model_logits(logits, model, hidden, c.ctx);
  std::vector<std::vector<double>> log_p;
  for (int64_t n = 0; n < 16; ++n) {
    double sum = 0;
    for (int64_t v = 0; v < 23; ++v) sum += std::exp(double(logits.row<float>(n)[v]));
    std::vector<double>& row = log_p.emplace_back();
    for (int64_t v = 0; v < 23; ++v) row.push_back(double(logits.row<float>(n)[v]) - std::log(sum));
  }
  return log_p;
}

TEST(ReplaceOne, MetricsAreMeansOverTokens) {
  Case c;
  const auto of_teacher = log_probabilities(c, c.teacher);
  std::set<int64_t> ranks;
  for (int64_t layer = 0; layer < 3; ++layer)
    for (const char* ffn : {"linear", "no_op", "ffn_4"}) {
      const LibraryEntry e = c.entry(layer, "no_op", ffn);
      const Model student = assemble(c.teacher, std::span(&e, 1));
      const auto of_student = log_probabilities(c, student);
      const SequenceMetrics metrics = c.naively(e);
      for (size_t s = 0; s < 2; ++s) {
        double kl = 0, loss = 0, with_target = 0, first = 0, fifth = 0, tenth = 0;
        for (size_t n = 8 * s; n < 8 * s + 8; ++n) {
          const auto &t = of_teacher[n], &p = of_student[n];
          for (size_t v = 0; v < 23; ++v) kl += std::exp(t[v]) * (t[v] - p[v]) / 8;
          if (c.targets[n] >= 0) loss -= p[size_t(c.targets[n])], ++with_target;
          const size_t greedy = size_t(std::max_element(t.begin(), t.end()) - t.begin());
          const int64_t rank = std::count_if(p.begin(), p.end(), [&](double x) { return x > p[greedy]; });
          ranks.insert(rank);
          first += rank < 1, fifth += rank < 5, tenth += rank < 10;
        }
        EXPECT_NEAR(metrics[s][size_t(Metric::kl_divergence)], kl, 1e-5);
        EXPECT_NEAR(metrics[s][size_t(Metric::lm_loss)], loss / with_target, 1e-5);
        EXPECT_DOUBLE_EQ(metrics[s][size_t(Metric::top_1)], first / 8);
        EXPECT_DOUBLE_EQ(metrics[s][size_t(Metric::top_5)], fifth / 8);
        EXPECT_DOUBLE_EQ(metrics[s][size_t(Metric::top_10)], tenth / 8);
      }
    }
  for (int64_t edge : {0, 1, 4, 5, 9, 10}) EXPECT_TRUE(ranks.count(edge)) << "no token has rank " << edge;
}

TEST(MeanAndError, ByHand) {
  // Mean 3; squares of the differences 4 + 1 + 1 + 4 = 10 over 3, over 4: sqrt(10 / 12).
  const MeanAndError m = mean_and_error(std::vector<double>{1, 2, 4, 5});
  EXPECT_DOUBLE_EQ(m.mean, 3);
  EXPECT_NEAR(m.standard_error, std::sqrt(10.0 / 12.0), 1e-15);
  EXPECT_EQ(mean_and_error(std::vector<double>{7}).standard_error, 0);
}

TEST(ReplaceOne, RefusesABatchThatIsNoWholeSequences) {
  Case c;
  ReplaceOneScorer scorer(c.teacher, 16, c.ctx);
  c.batch.sequence_length = 5;
  EXPECT_THROW(scorer.start_batch(c.batch), Error);
}

}  // namespace
}  // namespace tangram
