// tokenize_lines TOKENIZER.JSON: reads texts, each behind a line with its number of bytes, and writes a line of ids, or
// an error, for each. How fast they were encoded, in time of the processor, goes to standard error.

#include <ctime>
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
    std::clock_t ticks = 0;
    size_t size = 0, bytes = 0;
    while (std::cin >> size) {
      std::string text(size, '\0');
      std::cin.ignore(1);
      std::cin.read(text.data(), static_cast<std::streamsize>(size));
      try {
        const std::clock_t start = std::clock();
        const auto ids = tokenizer.encode(text);
        ticks += std::clock() - start;
        bytes += size;
        for (const int64_t id : ids) std::cout << id << ' ';
        std::cout << '\n';
      } catch (const RowError& error) {
        std::cout << "error: " << error.what() << '\n';
      }
    }
    const double seconds = static_cast<double>(ticks) / CLOCKS_PER_SEC;
    std::cerr << static_cast<double>(bytes) / 1e6 / seconds << " MB/s" << std::endl;
  } catch (const FatalError& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return 1;
  }
}
