#pragma once

#include <string>

/// From here on SIGINT, SIGTERM and SIGHUP end the program with code 128 + number and one line, whatever it is doing,
/// also as process 1 of a container, for which their default is to do nothing. One that was ignored (nohup) stays so.
/// A broken pipe and a file that may grow no further become errors of the write. Call it before any thread starts.
void take_signals();

/// From here on the first signal calls `act`, on a thread of its own, and only the second ends the program.
void at_first_signal(void (*act)());

/// While it lives, a signal waits with ending the program, though for a second at most: whoever reads a line that is
/// being written may have stalled. One at a time in a thread.
class Uninterrupted {
 public:
  Uninterrupted();
  Uninterrupted(const Uninterrupted&) = delete;
  Uninterrupted& operator=(const Uninterrupted&) = delete;
  ~Uninterrupted();

  /// What a signal's line says after "ended by SIGTERM"; nothing at first.
  void set_last_words(std::string words);
};
