// tokenize_lines TOKENIZER.JSON: reads texts, each behind a line with its number of bytes, and writes a line of ids, or an
// error, for each. How fast they were encoded goes to standard error.

#include <chrono>
#include <iostream>
#include <string>

#include "errors.h"
#include "tokenizer.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: tokenize_lines TOKENIZER.JSON" << std::endl;
    return 2;
  }
  std::ios::sync_with_stdio(false);
  try {
    const Tokenizer tokenizer = Tokenizer::load(argv[1]);
    std::chrono::duration<double> seconds{0};
    size_t size = 0, bytes = 0;
    while (std::cin >> size) {
      std::string text(size, '\0');
      std::cin.ignore(1);
      std::cin.read(text.data(), static_cast<std::streamsize>(size));
      try {
        const auto start = std::chrono::steady_clock::now();
        const auto ids = tokenizer.encode(text);
        seconds += std::chrono::steady_clock::now() - start;
        bytes += size;
        for (const int64_t id : ids) std::cout << id << ' ';
        std::cout << '\n';
      } catch (const RowError& error) {
        std::cout << "error: " << error.what() << '\n';
      }
    }
    std::cerr << static_cast<double>(bytes) / 1e6 / seconds.count() << " MB/s" << std::endl;
  } catch (const FatalError& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return 1;
  }
}
