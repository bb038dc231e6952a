#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "engine.h"
#include "service.h"

/// What a flag says. Only main.cpp includes this.
struct CommandLine {
  EngineOptions engine;
  ServiceOptions service;  // where it has an address, the program serves
  std::string tokenizer, input = "-", output = "-";
  bool check = false, tokenize = false, version = false, help = false;
};

/// The command line cannot be followed: one line, and the program ends with code 2.
class BadFlag : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

extern const char* const kHelp;

/// Throws BadFlag for a flag that it does not know by its full name, and for a value that a flag does not take.
CommandLine parse_command_line(int argc, char** argv);
