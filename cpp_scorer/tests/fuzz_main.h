#pragma once

// The main of a fuzz program where the compiler has no libFuzzer: random changes to a corpus for a number of seconds.
// The corpus begins as the seeds, and gains every input that reaches code which none before it did.

#include <bitset>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
const std::vector<std::string>& fuzz_seeds();

#ifndef LIBFUZZER

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace fuzz {

inline std::bitset<1 << 16> reached;  // by places in the code, hashed
inline bool reached_more = false;

}  // namespace fuzz

/// The compiler calls it at every branch of what is fuzzed (-fsanitize-coverage=trace-pc).
extern "C" void __sanitizer_cov_trace_pc() {
  const size_t place = reinterpret_cast<uintptr_t>(__builtin_return_address(0)) * 0x9E3779B97F4A7C15 >> 48;
  if (!fuzz::reached[place]) fuzz::reached[place] = fuzz::reached_more = true;
}

namespace fuzz {

using Random = std::mt19937_64;

inline size_t below(Random& random, size_t bound) { return bound == 0 ? 0 : random() % bound; }

/// One change: a bit flipped, a byte set, a piece dropped, doubled, or taken over from another of the corpus.
inline void mutate(std::string& text, const std::vector<std::string>& corpus, Random& random) {
  const size_t at = below(random, text.size() + 1), count = below(random, 16);
  const std::string& other = corpus[below(random, corpus.size())];
  switch (below(random, 6)) {
    case 0: if (at < text.size()) text[at] = static_cast<char>(text[at] ^ 1 << below(random, 8)); break;
    case 1: if (at < text.size()) text[at] = static_cast<char>(random()); break;
    case 2: text.insert(at, 1, "{}[]\",:\\u\n"[below(random, 10)]); break;
    case 3: text.erase(at, count); break;
    case 4: text.insert(at, text.substr(below(random, text.size() + 1), count)); break;
    default: text.insert(at, other.substr(below(random, other.size() + 1), count)); break;
  }
}

inline std::string current;

/// Tells the input of a finding: its seed alone does not bring it back, since what is kept depends on where the program
/// was loaded.
inline void show_input() {
  std::fputs("the input, in hexadecimal: ", stderr);
  for (const char byte : current) std::fprintf(stderr, "%02x", static_cast<unsigned char>(byte));
  std::fputs("\n", stderr);
}

inline void on_signal(int number) {
  show_input();
  std::signal(number, SIG_DFL);
  std::raise(number);
}

inline int run(int argc, char** argv) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_set_death_callback(show_input);
#endif
  for (const int number : {SIGILL, SIGABRT}) std::signal(number, on_signal);  // of __builtin_trap, and of a throw
  const double seconds = argc > 1 ? std::atof(argv[1]) : 1;
  Random random(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0);
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  std::vector<std::string> corpus = fuzz_seeds();
  size_t runs = 0;
  for (; std::chrono::steady_clock::now() < end; ++runs) {
    std::string text = corpus[below(random, corpus.size())];
    for (size_t changes = below(random, 8); changes > 0; --changes) mutate(text, corpus, random);
    reached_more = false;
    current = text;
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(text.data()), text.size());
    if (reached_more) corpus.push_back(std::move(text));
  }
  std::cout << runs << " inputs without a finding, " << reached.count() << " places reached, " << corpus.size()
            << " inputs kept" << std::endl;
  return 0;
}

}  // namespace fuzz

int main(int argc, char** argv) { return fuzz::run(argc, argv); }

#endif
