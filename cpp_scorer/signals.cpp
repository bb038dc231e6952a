#include "signals.h"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <mutex>
#include <thread>
#include <utility>

namespace {

constexpr struct {
  int number;
  const char* name;
} kSignals[] = {{SIGINT, "SIGINT"}, {SIGTERM, "SIGTERM"}, {SIGHUP, "SIGHUP"}};

constexpr std::chrono::seconds kPatience{1};

struct State {
  std::timed_mutex busy;
  std::string last_words;
  std::atomic<void (*)()> at_first = nullptr;
};

/// Never destroyed: the thread that waits for signals outlives main().
State& state() {
  static State* const made = new State;
  return *made;
}

[[noreturn]] void end(int number) {
  std::string line = "error: ended by ";
  for (const auto& signal : kSignals) {
    if (signal.number == number) line += signal.name;
  }
  // Kept to the end, so that no other line begins.
  if (state().busy.try_lock_for(kPatience)) line += state().last_words;
  line += "\n";
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
  _exit(128 + number);
}

}  // namespace

void take_signals() {
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  sigset_t taken;
  sigemptyset(&taken);
  for (const auto& signal : kSignals) {
    struct sigaction action;
    sigaction(signal.number, nullptr, &action);
    if (action.sa_handler != SIG_IGN) sigaddset(&taken, signal.number);
  }
  // Blocked in every thread, since each inherits this, and waited for in one.
  pthread_sigmask(SIG_BLOCK, &taken, nullptr);
  std::thread([taken] {
    int number = 0;
    if (sigwait(&taken, &number) != 0) return;
    if (const auto act = state().at_first.load()) {
      act();
      if (sigwait(&taken, &number) != 0) return;
    }
    end(number);
  }).detach();
}

void at_first_signal(void (*act)()) { state().at_first = act; }

Uninterrupted::Uninterrupted() { state().busy.lock(); }

Uninterrupted::~Uninterrupted() { state().busy.unlock(); }

void Uninterrupted::set_last_words(std::string words) { state().last_words = std::move(words); }
