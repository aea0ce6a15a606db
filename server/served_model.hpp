// What a server serves, once loaded: the engine, its tokenizer, and the rules for requests.
//
// Built before the first call is accepted and not changed after; shared by all threads. It owns the
// pools between RPC threads and engine and outlives every call.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cogserve/v1/cogserve.pb.h"
#include "engine/engine.hpp"
#include "server/preprocess.hpp"
#include "server/request_validation.hpp"
#include "server/serial_executor.hpp"
#include "server/text/tokenizer.hpp"

namespace cogserve {

struct ServedModelOptions {
  std::vector<std::string> names;  // at least one
  std::string chat_template;       // "chat", "vqa", "base"; empty: as the checkpoint says
  RequestLimits limits;
  EngineConfig engine;
  int preprocess_threads = 2;
  int writer_threads = 2;
  int64_t max_message_bytes = 0;  // for GetModel
};

class ServedModel {
 public:
  ServedModel(std::unique_ptr<Engine> engine, text::Tokenizer tokenizer,
              const ServedModelOptions& options);

  Engine& engine() { return *engine_; }
  const Engine& engine() const { return *engine_; }
  const text::Tokenizer& tokenizer() const { return tokenizer_; }
  const RequestRules& rules() const { return rules_; }
  const std::string& name() const { return rules_.model_names.front(); }
  const EngineConfig& engine_config() const { return engine_config_; }
  Preprocessor& preprocessor() { return preprocessor_; }
  SerialExecutor& executor() { return executor_; }

  // The answer to GetModel.
  const v1::Model& description() const { return description_; }

 private:
  const EngineConfig engine_config_;
  const text::Tokenizer tokenizer_;
  // Destroyed from below: the preprocessor feeds the engine, and both wake tasks of the executor.
  SerialExecutor executor_;
  const std::unique_ptr<Engine> engine_;
  const RequestRules rules_;
  const v1::Model description_;
  Preprocessor preprocessor_;
};

}  // namespace cogserve
