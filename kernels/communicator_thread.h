#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "kernels/communicator.h"
#include "kernels/mpi/module.h"

namespace tangram {

/// What the communication thread needs to know about a group of ranks.
struct RankGroup {
  const TangramMpi* mpi = nullptr;
  TangramMpiGroup handle = 0;
  int rank = 0;                 ///< of this process
  std::vector<int> members{0};  ///< their ranks in the job; messages to the user name these
  int job_size = 1;

  int size() const { return int(members.size()); }
};

/// What the communication thread does for one call: rounds of messages. `advance` is called whenever none of its
/// messages is under way; it starts those of the next round. Between `submit` and its end only that thread uses it.
class Operation {
 public:
  Operation(std::shared_ptr<const RankGroup> ranks, std::string name, int tag);

  /// Bytes that may go in several messages; with the operation's tag.
  void send(const void* data, int64_t bytes, int to) { start(Message::sent, const_cast<void*>(data), bytes, to, tag); }
  void receive(void* data, int64_t bytes, int from) { start(Message::received, data, bytes, from, tag); }
  void start(Message::Kind kind, void* data, int64_t bytes, int peer, int message_tag);
  /// Bytes whose receiver does not know their number.
  void send_text(const std::string& text, int to);
  bool receive_text(std::string& text, int from);  ///< false: has not come
  /// "rank 1 of 4: sum of 4096 bytes during 'distill step 17'"
  std::string describe() const;
  /// "rank 2 and rank 3": whose messages have not come, or not gone.
  std::string peers() const;

  const std::shared_ptr<const RankGroup> ranks;
  const std::string name;
  const int tag;
  std::string label;
  std::function<bool(Operation&)> advance;  ///< false: finished
  std::function<void()> join;               ///< of a GPU's operation: what its caller does in place of waiting

 private:
  friend class CommunicationThread;
  struct UnderWay {
    TangramMpiRequest request;
    Message::Kind kind;
    int64_t bytes;
    int peer;
  };
  void start_one(Message::Kind kind, void* data, int64_t bytes, int peer, int message_tag);
  void check(int error, int peer) const;
  /// Whether anything has moved since the last call.
  bool poll();

  std::vector<UnderWay> messages_;  // of this round
  size_t ended_ = 0;                // so many of them are finished
  int awaited_ = -1;                // the rank that receive_text waits for
  bool finished_ = false;           // guarded by the thread's mutex
  std::atomic<int64_t> moved_ns_{0};
};

/// The one thread of a process that calls MPI. It polls while operations are under way, with naps that grow while
/// nothing moves, and sleeps while there are none. The first failure ends all communication: the thread then touches no
/// tensor any more, and everything that waits or begins throws that failure.
class CommunicationThread {
 public:
  /// Starts MPI. Throws Error.
  explicit CommunicationThread(const std::string& module_path, double timeout_s);
  /// Ends MPI with the other ranks, unless communication has failed or an exception is under way, when this process
  /// must end with an exit code that is not 0: the launcher then ends the others.
  ~CommunicationThread();
  CommunicationThread(const CommunicationThread&) = delete;
  CommunicationThread& operator=(const CommunicationThread&) = delete;

  void submit(std::shared_ptr<Operation> operation);
  void wait(Operation& operation);
  bool finished(const Operation& operation);
  /// Ends all communication with this message, unless it has failed before; returns the first message.
  std::string fail(const std::string& message);
  [[noreturn]] void abort(const std::string& message, int exit_code);
  /// The same, called by the thread itself.
  [[noreturn]] void abort_here(const std::string& message);
  double timeout_s() const { return timeout_.count(); }
  void set_label(std::string label);

  const TangramMpi* mpi() const { return mpi_; }
  TangramMpiGroup world() const { return world_; }  ///< once an operation is finished

 private:
  using Clock = std::chrono::steady_clock;
  void run();
  void poll_all();
  bool wait_for_work(std::unique_lock<std::mutex>& lock);
  void stop_mpi();

  const std::chrono::duration<double> timeout_;
  const int exceptions_;
  const TangramMpi* mpi_ = nullptr;
  TangramMpiGroup world_ = 0;

  std::mutex mutex_;
  std::condition_variable work_, news_;             // for the thread; from it
  std::vector<std::shared_ptr<Operation>> queue_;   // submitted
  std::vector<std::shared_ptr<Operation>> active_;  // the thread's own
  std::string label_, failure_;
  bool failed_ = false, resting_ = false, stopping_ = false, stopped_ = false;
  int abort_code_ = -1;
  Clock::time_point last_move_;  // the thread's own
  std::thread thread_;
};

struct Communicator::Group {
  std::shared_ptr<CommunicationThread> thread;  // null: one process without a launcher
  std::shared_ptr<const RankGroup> ranks = std::make_shared<RankGroup>();
  std::shared_ptr<cuda::Nccl> nccl;  // once attached
  int collectives = 0;               // so many have begun
};

}  // namespace tangram
