// Two processes, a rank and a device each, that reach each other's memory by CUDA IPC; one is killed in the middle of a call.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>

#include "moe/group/exchange_rank.cuh"

extern char** environ;

namespace h4j {
namespace {

using testing::Error;
using testing::Lane;
using testing::Meeting;
using testing::Rank;
using testing::Scenario;
using Clock = std::chrono::steady_clock;

constexpr const char* kSocket = "H4J_MOE_PEER_SOCKET";
constexpr const char* kForm = "H4J_MOE_PEER_FORM";
constexpr int64_t kDeadlineUs = 500'000;
constexpr int kCalls = 100;

Scenario scenario_of(int form) {
  Scenario scenario;
  scenario.name = form == 0 ? "rank" : form == 1 ? "expert" : "latency";
  scenario.expert_layout = form == 1;
  scenario.latency = form == 2;
  scenario.ranks = scenario.devices = 2;
  scenario.tokens = form == 2 ? 64 : 256;
  scenario.deadline_us = kDeadlineUs;
  scenario.delays = false;
  return scenario;
}

// Two ranks at the ends of a socket.
class SocketMeeting final : public Meeting {
 public:
  explicit SocketMeeting(int socket) : Meeting(2), socket_(socket) {}
  ~SocketMeeting() override { close(socket_); }

  bool share(int rank, std::vector<uint8_t>& blobs) override {
    constexpr size_t kBytes = H4J_GROUP_BLOB_BYTES;
    return send(blobs.data() + static_cast<size_t>(rank) * kBytes, kBytes) && receive(blobs.data() + static_cast<size_t>(1 - rank) * kBytes, kBytes);
  }
  bool meet() override {
    uint8_t word = 1;
    return send(&word, 1) && receive(&word, 1);
  }
  void fail() override { failed_ = true; }

 private:
  bool send(const uint8_t* data, size_t bytes) {
    if (failed_ || ::send(socket_, data, bytes, MSG_NOSIGNAL) != static_cast<ssize_t>(bytes)) failed_ = true;
    return !failed_;
  }
  bool receive(uint8_t* data, size_t bytes) {
    for (size_t got = 0; got < bytes && !failed_;) {
      pollfd waited{socket_, POLLIN, 0};
      const ssize_t more = poll(&waited, 1, 60'000) == 1 ? recv(socket_, data + got, bytes - got, 0) : -1;
      if (more <= 0) {
        failed_ = true;
      } else {
        got += static_cast<size_t>(more);
      }
    }
    return !failed_;
  }

  const int socket_;
  bool failed_ = false;
};

// What the other process runs: the same calls, until it is killed or loses its peer.
TEST(MoeExchangePeerGpu, DISABLED_MakesCallsUntilItIsKilled) {
  const char* socket = std::getenv(kSocket);
  const char* form = std::getenv(kForm);
  if (socket == nullptr || form == nullptr) GTEST_SKIP() << "is started by MoeExchangeProcessesGpu";
  const Scenario scenario = scenario_of(std::atoi(form));
  SocketMeeting meeting(std::atoi(socket));
  std::vector<uint8_t> blobs(2 * H4J_GROUP_BLOB_BYTES);
  Rank rank(scenario, 1, blobs, meeting);
  ASSERT_TRUE(rank.open);
  Error error;
  for (int call = 0; rank.check(error) == H4J_OK; ++call) {
    rank.lanes.front()->round(call);
    ASSERT_EQ(H4J_OK, rank.lanes.front()->synchronize(error)) << error.message;
  }
}

pid_t start_peer(int socket, int form) {
  std::vector<std::string> values;
  for (char** variable = environ; *variable != nullptr; ++variable) values.emplace_back(*variable);
  values.push_back(std::string(kSocket) + "=" + std::to_string(socket));
  values.push_back(std::string(kForm) + "=" + std::to_string(form));
  std::vector<char*> environment;
  for (std::string& value : values) environment.push_back(value.data());
  environment.push_back(nullptr);
  std::string arguments[] = {"peer", "--gtest_also_run_disabled_tests", "--gtest_filter=MoeExchangePeerGpu.*"};
  char* const argv[] = {arguments[0].data(), arguments[1].data(), arguments[2].data(), nullptr};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t process = -1;
  EXPECT_EQ(0, posix_spawn(&process, "/proc/self/exe", &actions, nullptr, argv, environment.data()));
  posix_spawn_file_actions_destroy(&actions);
  return process;
}

class MoeExchangeProcessesGpu : public ::testing::TestWithParam<int> {};

TEST_P(MoeExchangeProcessesGpu, KilledProcessIsNamedInTimeAndLeftOut) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices < 2) GTEST_SKIP() << "needs 2 devices";
  int sockets[2];
  ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
  const pid_t process = start_peer(sockets[1], GetParam());
  ASSERT_GT(process, 0);
  close(sockets[1]);
  const Scenario scenario = scenario_of(GetParam());
  {
    SocketMeeting meeting(sockets[0]);
    std::vector<uint8_t> blobs(2 * H4J_GROUP_BLOB_BYTES);
    Rank rank(scenario, 0, blobs, meeting);
    if (rank.open) {
      Error error;
      Lane& lane = *rank.lanes.front();
      int call = 0;
      for (; call < kCalls; ++call) {
        lane.round(call);
        ASSERT_EQ(H4J_OK, lane.synchronize(error)) << error.message;
        ASSERT_EQ(H4J_OK, rank.check(error)) << error.message;
      }
      const testing::Findings found = lane.findings();
      EXPECT_EQ(0u, found.wrong) << "kind " << found.what << " in call " << found.call << ", token " << found.token << " of rank " << found.source;
      EXPECT_GT(found.rows, 0u);
      EXPECT_GT(found.sums, 0u);
      // Killed while this rank goes on with its calls: the peer is in the middle of one nearly always.
      const auto killed = Clock::now();
      EXPECT_EQ(0, kill(process, SIGKILL));
      for (; rank.check(error) == H4J_OK; ++call) {
        lane.seed(call);
        lane.fill();
        if (lane.launch_dispatch(error) != H4J_OK) break;
        ASSERT_EQ(H4J_OK, lane.synchronize(error)) << error.message;
        if (rank.check(error) != H4J_OK) break;
        lane.fill_back();
        lane.combine();
        ASSERT_EQ(H4J_OK, lane.synchronize(error)) << error.message;
        ASSERT_LT(Clock::now() - killed, std::chrono::seconds(30));
      }
      const double milliseconds = std::chrono::duration<double, std::milli>(Clock::now() - killed).count();
      EXPECT_EQ(H4J_PEER_TIMEOUT, rank.check(error));
      EXPECT_STREQ("rank", error.argument);
      EXPECT_STREQ("1", error.got);
      EXPECT_LE(milliseconds, 2.0 * kDeadlineUs / 1000 + 500);
      std::printf("             %s: %d calls right, %llu rows and %llu sums compared; told %.1f ms after the kill: \"%s\"\n", scenario.name.c_str(),
                  kCalls, found.rows, found.sums, milliseconds, error.message);
    } else {
      ADD_FAILURE() << "the group of two processes did not open";
      kill(process, SIGKILL);
    }
    int status = 0;
    EXPECT_EQ(process, waitpid(process, &status, 0));
    EXPECT_TRUE(WIFSIGNALED(status));
    meeting.fail();
  }
  // On the same device, without the lost rank.
  Scenario alone = scenario;
  alone.ranks = alone.devices = 1;
  run_ranks(alone, [&](Rank& rank) {
    Error error;
    Lane& lane = *rank.lanes.front();
    for (int call = 0; call < kCalls; ++call) lane.round(call);
    EXPECT_EQ(H4J_OK, lane.synchronize(error)) << error.message;
    EXPECT_EQ(H4J_OK, rank.check(error)) << error.message;
    EXPECT_EQ(0u, lane.findings().wrong);
    EXPECT_GT(lane.findings().rows, 0u);
  });
}

INSTANTIATE_TEST_SUITE_P(All, MoeExchangeProcessesGpu, ::testing::Range(0, 3), [](const auto& info) { return scenario_of(info.param).name; });

}  // namespace
}  // namespace h4j
