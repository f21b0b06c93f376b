#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nas/progress.h"
#include "nas/table.h"
#include "tests/nas/command_line.h"

namespace tangram {
namespace {

TEST(Progress, LineTellsShareRateAndTimeLeft) {
  EXPECT_EQ(progress_line({"distill", "tokens", 1.0e6, 4.0e6, 0, 100, "loss 0.5"}),
            "distill: 25%, 1M of 4M tokens, 10k tokens/s, 5 min 00 s left, loss 0.5");
  // A resumed run has done only what came after its start.
  EXPECT_EQ(progress_line({"distill", "tokens", 1.0e6, 4.0e6, 0.5e6, 100, ""}),
            "distill: 25%, 1M of 4M tokens, 5k tokens/s, 10 min 00 s left");
  EXPECT_EQ(progress_line({"score", "variants", 0, 80, 0, 0, ""}), "score: 0%, 0 of 80 variants");
  EXPECT_EQ(progress_line({"score", "variants", 80, 80, 0, 8, ""}), "score: 100%, 80 of 80 variants, 10 variants/s");
}

TEST(Progress, BarFitsTheTerminal) {
  const ProgressState state = {"distill", "tokens", 1.0e6, 4.0e6, 0, 100, "loss 0.5"};
  EXPECT_EQ(progress_bar(state, 200),
            "distill [######..................]  25%  1M of 4M tokens  10k tokens/s  5 min 00 s left  loss 0.5");
  EXPECT_EQ(progress_bar(state, 20), "distill [######....");
  EXPECT_EQ(progress_bar(state, 0), "");
}

TEST(Progress, LogLinesBecomeRarer) {
  Capture log;
  Console console(log.file, false, false);
  double now = 0;
  std::vector<double> times;
  {
    Progress progress(console, "distill", "tokens", 1e6, 0, LogLines::ever_fewer, [&] { return now; });
    size_t lines = 0;
    for (; now <= 1000; now += 1) {
      progress.update(now);
      const std::string text = log.text();
      if (static_cast<size_t>(std::count(text.begin(), text.end(), '\n')) > lines) times.push_back(now), ++lines;
    }
  }
  ASSERT_GE(times.size(), 10u);
  EXPECT_EQ(times[0], 10);
  EXPECT_EQ(times[1], 20);
  EXPECT_LT(times.size(), 45u);  // ten lines to 100 s, then each a tenth later: ln 10 / ln 1.1 = 24
  EXPECT_EQ(log.text().find('\x1b'), std::string::npos);
}

TEST(Progress, LogHasALineAStepButNotMoreThanOneASecond) {
  Capture log;
  Console console(log.file, false, false);
  double now = 0;
  Progress progress(console, "distill", "tokens", 100, 0, LogLines::each_second, [&] { return now; });
  for (const double at : {2.0, 2.5, 2.9, 3.0, 5.0}) now = at, progress.update(10 * at);
  EXPECT_EQ(log.text(),
            "distill: 20%, 20 of 100 tokens, 10 tokens/s, 8 s left\n"
            "distill: 30%, 30 of 100 tokens, 10 tokens/s, 7 s left\n"
            "distill: 50%, 50 of 100 tokens, 10 tokens/s, 5 s left\n");
}

TEST(Progress, TerminalRedrawsOneLineAndTakesItAway) {
  Capture terminal;
  Console console(terminal.file, true, false);
  double now = 0;
  {
    Progress progress(console, "score", "variants", 4, 0, LogLines::ever_fewer, [&] { return now; });
    progress.update(0);
    now = 0.05;
    progress.update(1);  // too soon to redraw
    now = 1;
    progress.update(2);
    console.say("a message");
  }
  EXPECT_EQ(terminal.text(),
            "\r\x1b[Kscore [........................]   0%  0 of 4 variants"
            "\r\x1b[Kscore [############............]  50%  2 of 4 variants  2 variants/s  1 s left"
            "\r\x1b[K"
            "a message\n");
}

TEST(Progress, QuietIsSilent) {
  Capture log;
  Console console(log.file, true, true);
  Progress progress(console, "score", "variants", 4);
  progress.update(1);
  console.say("a message");
  EXPECT_EQ(log.text(), "");
}

TEST(Table, AlignsNumbersRightAndWordsLeft) {
  const Table table = {{"student", "KL", "accuracy"},
                       {{"greedy", "0.5", "99.1%"}, {"a né", "12.25", "-"}, {"x", "", "7"}}};
  EXPECT_EQ(format_table(table),
            "student     KL  accuracy\n"
            "------------------------\n"
            "greedy     0.5     99.1%\n"
            "a né     12.25         -\n"
            "x                      7\n");
  EXPECT_THROW(format_table({{"a"}, {{"1", "2"}}}), Error);
}

}  // namespace
}  // namespace tangram
