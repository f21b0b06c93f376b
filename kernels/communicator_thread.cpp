#include "kernels/communicator_thread.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <exception>

#include "kernels/shared_library.h"

namespace tangram {
namespace {

using namespace std::chrono_literals;

constexpr int64_t kMessageBytes = 4 << 20;  // of a tensor that goes in several messages, so that its way is seen
constexpr int64_t kMostTextBytes = 1 << 30;
constexpr auto kHot = 30us;  // after something has moved, more is expected at once
constexpr auto kShortestNap = 10us, kLongestNap = 2000us;
constexpr int kNapShare = 16;    // a nap is this part of the time in which nothing has moved
constexpr auto kPatience = 5s;   // for a thread that MPI may hold
constexpr int kTextBytes = 512;  // of MPI's explanations

int64_t now_ns() { return std::chrono::steady_clock::now().time_since_epoch() / 1ns; }

std::string text_of(const TangramMpi& mpi, int error) {
  char text[kTextBytes];
  mpi.error_text(error, text, sizeof text);
  return text;
}

const TangramMpi* open_module(const std::string& path) {
  const SharedLibrary library({path},
                              "install MPI (Debian: openmpi-bin), or build this module against the machine's "
                              "own MPI as kernels/mpi/module.h says, and name it in TANGRAM_MPI_MODULE");
  const TangramMpi* mpi = library.function<const TangramMpi* (*)()>("tangram_mpi")();
  CHECK(mpi->version == TANGRAM_MPI_VERSION, "{} is a module of version {}; this binary needs {}: build it again",
        library.path(), mpi->version, TANGRAM_MPI_VERSION);
  return mpi;
}

[[noreturn]] void end_process(const std::string& message, int exit_code) {
  fmt::print(stderr, "tangram: {}\n", message);
  std::fflush(nullptr);
  _exit(exit_code);
}

}  // namespace

// --- one operation ---

Operation::Operation(std::shared_ptr<const RankGroup> group, std::string what, int message_tag)
    : ranks(std::move(group)), name(std::move(what)), tag(message_tag) {}

std::string Operation::describe() const {
  return fmt::format("rank {} of {}: {}{}{}", ranks->members[size_t(ranks->rank)], ranks->job_size, name,
                     ranks->size() < ranks->job_size ? fmt::format(" in a group of {}", ranks->size()) : "",
                     label.empty() ? "" : fmt::format(" during '{}'", label));
}

std::string Operation::peers() const {
  std::vector<int> found;
  for (size_t i = ended_; i < messages_.size(); ++i) found.push_back(ranks->members[size_t(messages_[i].peer)]);
  if (awaited_ >= 0) found.push_back(ranks->members[size_t(awaited_)]);
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  if (found.empty()) return "no rank";
  constexpr size_t kNamed = 16;
  const auto named = int64_t(std::min(found.size(), kNamed));
  return fmt::format("{} {}{}", found.size() == 1 ? "rank" : "ranks",
                     fmt::join(found.begin(), found.begin() + named, ", "),
                     found.size() > kNamed ? fmt::format(" and {} more", found.size() - kNamed) : "");
}

void Operation::check(int error, int peer) const {
  if (error)
    throw Error(fmt::format("{}: rank {}: MPI says: {}", describe(), ranks->members[size_t(peer)],
                            text_of(*ranks->mpi, error)));
}

void Operation::start_one(Message::Kind kind, void* data, int64_t bytes, int peer, int message_tag) {
  UnderWay message{0, kind, bytes, peer};
  const TangramMpi& mpi = *ranks->mpi;
  check(kind == Message::sent ? mpi.send(ranks->handle, data, bytes, peer, message_tag, &message.request)
                              : mpi.receive(ranks->handle, data, bytes, peer, message_tag, &message.request),
        peer);
  messages_.push_back(message);
}

void Operation::start(Message::Kind kind, void* data, int64_t bytes, int peer, int message_tag) {
  auto* at = static_cast<char*>(data);
  do {
    const int64_t part = std::min(bytes, kMessageBytes);
    start_one(kind, at, part, peer, message_tag);
    at += part, bytes -= part;
  } while (bytes > 0);
}

void Operation::send_text(const std::string& text, int to) {
  CHECK(int64_t(text.size()) <= kMostTextBytes, "a text of {} bytes; at most {} go in one message", text.size(),
        kMostTextBytes);
  start_one(Message::sent, const_cast<char*>(text.data()), int64_t(text.size()), to, tag);
}

bool Operation::receive_text(std::string& text, int from) {
  awaited_ = from;
  TangramMpiMessage message = 0;
  int found = 0;
  int64_t bytes = 0;
  check(ranks->mpi->find(ranks->handle, from, tag, &found, &message, &bytes), from);
  if (!found) return false;
  text.resize(size_t(bytes));
  UnderWay started{0, Message::received, bytes, from};
  check(ranks->mpi->receive_found(&message, text.data(), bytes, &started.request), from);
  messages_.push_back(started);
  awaited_ = -1;
  return true;
}

bool Operation::poll() {
  const size_t ended_before = ended_;
  for (; ended_ < messages_.size(); ++ended_) {
    UnderWay& message = messages_[ended_];
    int done = 0;
    int64_t bytes = 0;
    check(ranks->mpi->test(&message.request, &done, &bytes), message.peer);
    if (!done) break;
    if (message.kind == Message::received && bytes != message.bytes)
      throw Error(fmt::format("{}: {} bytes came from rank {} where {} must come", describe(), bytes,
                              ranks->members[size_t(message.peer)], message.bytes));
  }
  const bool moved = ended_ > ended_before;
  if (moved) moved_ns_ = now_ns();
  return moved;
}

// --- the thread ---

CommunicationThread::CommunicationThread(const std::string& module_path, double timeout_s)
    : timeout_(timeout_s),
      exceptions_(std::uncaught_exceptions()),
      mpi_(open_module(module_path)),
      last_move_(Clock::now()),
      thread_([this] { run(); }) {}

CommunicationThread::~CommunicationThread() {
  std::unique_lock lock(mutex_);
  if (std::uncaught_exceptions() > exceptions_) failed_ = true;  // the others are not to be waited for
  stopping_ = true;
  work_.notify_all();
  const auto patience = failed_ ? std::chrono::duration<double>(kPatience) : timeout_;
  if (!news_.wait_for(lock, patience, [&] { return stopped_; }))
    end_process(
        failed_ && !failure_.empty() ? failure_ : "communication did not end: another rank has not come to its end", 1);
  lock.unlock();
  thread_.join();
}

void CommunicationThread::run() {
  prctl(PR_SET_TIMERSLACK, 1000);  // ns; a nap would last 50 us longer
  std::string problem;
  if (const int error = mpi_->start(&world_)) problem = fmt::format("MPI does not start: {}", text_of(*mpi_, error));
  std::unique_lock lock(mutex_);
  if (!problem.empty() && !failed_) failed_ = true, failure_ = problem;
  while (wait_for_work(lock)) {
    lock.unlock();
    try {
      poll_all();
      lock.lock();
    } catch (const std::exception& e) {
      lock.lock();
      if (!failed_) failed_ = true, failure_ = e.what();
    }
  }
  if (!failed_) {
    lock.unlock();
    mpi_->stop();
    lock.lock();
  }
  stopped_ = true;
  news_.notify_all();
}

bool CommunicationThread::wait_for_work(std::unique_lock<std::mutex>& lock) {
  const auto called = [&] { return stopping_ || abort_code_ >= 0; };
  const auto news = [&] { return called() || failed_ || !queue_.empty(); };
  const auto idle = Clock::now() - last_move_;
  if (failed_) {
    active_.clear(), queue_.clear();
    resting_ = true;
    news_.notify_all();
    work_.wait(lock, called);
  } else if (active_.empty()) {
    work_.wait(lock, news);
  } else if (idle > kHot) {
    work_.wait_for(lock, std::clamp<Clock::duration>(idle / kNapShare, kShortestNap, kLongestNap), news);
  }
  if (abort_code_ >= 0) {
    lock.unlock();
    mpi_->abort(abort_code_);
    lock.lock();
    work_.wait(lock, [&] { return stopping_; });
  }
  if (!queue_.empty()) last_move_ = Clock::now();
  std::move(queue_.begin(), queue_.end(), std::back_inserter(active_));
  queue_.clear();
  return !(stopping_ && (failed_ || active_.empty()));
}

void CommunicationThread::poll_all() {
  bool moved = false, ended = false;
  for (auto& operation : active_) {
    moved |= operation->poll();
    while (operation->ended_ == operation->messages_.size()) {  // a round is over
      operation->messages_.clear();
      operation->ended_ = 0;
      const bool more = operation->advance(*operation);
      if (more && operation->messages_.empty()) break;  // it looks for a message that has not come
      moved = true;
      if (more) continue;
      const std::lock_guard lock(mutex_);
      operation->finished_ = ended = true;
      operation.reset();
      break;
    }
  }
  if (moved)
    last_move_ = Clock::now();
  else
    std::this_thread::yield();
  if (!ended) return;
  std::erase(active_, nullptr);
  news_.notify_all();
}

// --- its callers ---

void CommunicationThread::submit(std::shared_ptr<Operation> operation) {
  const std::lock_guard lock(mutex_);
  if (failed_) throw Error(failure_);
  operation->label = label_;
  queue_.push_back(std::move(operation));
  work_.notify_all();
}

bool CommunicationThread::finished(const Operation& operation) {
  const std::lock_guard lock(mutex_);
  return operation.finished_;
}

void CommunicationThread::wait(Operation& operation) {
  std::unique_lock lock(mutex_);
  if (operation.join && !failed_) return operation.join();
  const Clock::time_point began = Clock::now();
  const auto over = [&] { return operation.finished_ || failed_; };
  while (!over()) {
    const Clock::time_point moved(Clock::duration(operation.moved_ns_.load()));
    const auto end = std::max(began, moved) + std::chrono::duration_cast<Clock::duration>(timeout_);
    if (Clock::now() < end) {
      news_.wait_until(lock, end, over);
      continue;
    }
    const std::string message = fmt::format("{}: nothing has moved for {} s", operation.describe(), timeout_.count());
    failed_ = true, failure_ = message;
    work_.notify_all();
    if (news_.wait_for(lock, kPatience, [&] { return resting_; }))
      failure_ = fmt::format("{}; waiting for {}, which has died, hangs, or is slower than the timeout", message,
                             operation.peers());
  }
  if (!operation.finished_) throw Error(failure_);
}

std::string CommunicationThread::fail(const std::string& message) {
  std::unique_lock lock(mutex_);
  if (!failed_) failed_ = true, failure_ = message;
  work_.notify_all();
  news_.wait_for(lock, kPatience, [&] { return resting_ || stopped_; });
  return failure_;
}

void CommunicationThread::abort(const std::string& message, int exit_code) {
  fmt::print(stderr, "{}\n", message);
  std::fflush(nullptr);
  {
    const std::lock_guard lock(mutex_);
    abort_code_ = exit_code;
    work_.notify_all();
  }
  std::this_thread::sleep_for(kPatience);
  _exit(exit_code);
}

void CommunicationThread::abort_here(const std::string& message) {
  fmt::print(stderr, "tangram: {}\n", message);
  std::fflush(nullptr);
  mpi_->abort(1);
  _exit(1);
}

void CommunicationThread::set_label(std::string label) {
  const std::lock_guard lock(mutex_);
  label_ = std::move(label);
}

}  // namespace tangram
