#pragma once

#include <cstddef>
#include <ostream>
#include <string>

#include "engine.h"
#include "line_reader.h"
#include "output_file.h"

struct Totals {
  size_t questions = 0;  // rows read
  size_t errors = 0;     // rows that could not be scored
  size_t labelled = 0, correct = 0;  // of the scored ones
  double seconds = 0;

  void add(const Answer& answer);

  /// One line: accuracy by `score` with its 95 % interval (Wilson), as eval_mc.py prints it, and questions a second.
  std::string summary(Score score) const;
};

/// Scores every question of `input` into `output`, in order. Each answer leaves as soon as it is known, and a batch
/// takes only questions that already lie ready: an input that stalls holds no answer back. On a CPU no log-prob depends
/// on the batch (packer.h), so none depends on how the input comes. A row at fault, be it that its run fails, gets an
/// error record, and a line in `log`. Throws FatalError where reading or writing fails, and for a model whose output has
/// another shape.
Totals score_stream(LineReader& input, OutputFile& output, std::ostream& log, Engine& engine);
