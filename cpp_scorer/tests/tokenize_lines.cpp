// tokenize_lines TOKENIZER.JSON: reads texts, each ended by a line "<bytes>\n" before it, and writes a line of ids for each.

#include <exception>
#include <iostream>
#include <string>

#include "errors.h"
#include "tokenizer.h"

int main(int argc, char** argv) {
  if (argc != 2) return std::cerr << "usage: tokenize_lines TOKENIZER.JSON" << std::endl, 2;
  std::ios::sync_with_stdio(false);
  try {
    const Tokenizer tokenizer = Tokenizer::load(argv[1]);
    size_t size = 0;
    while (std::cin >> size) {
      std::string text(size, '\0');
      std::cin.ignore(1);
      std::cin.read(text.data(), static_cast<std::streamsize>(size));
      try {
        for (const int64_t id : tokenizer.encode(text)) std::cout << id << ' ';
        std::cout << '\n';
      } catch (const InputError& error) {
        std::cout << "error: " << error.what() << '\n';
      }
    }
  } catch (const InputError& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return 1;
  }
}
