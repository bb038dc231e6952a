#pragma once

#include <cstddef>
#include <future>
#include <string>

#include "model_info.h"
#include "prompt.h"
#include "session.h"

/// Whether an export still is what was exported, on this machine: waits for `weights`, its check_weights, and reads the
/// golden questions that lie beside it, whose ids must be the same, and of the `num_scored` shortest the log-probs too,
/// within a tolerance. Returns what was found, one line. Throws FatalError, naming file and line, at the first thing that
/// differs.
std::string check_export(const ModelInfo& model, const PromptEncoder& encoder, Session& session,
                         std::future<void> weights, size_t num_scored);
