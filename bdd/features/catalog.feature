Feature: The models of a hive
  Models come from a hub, and stay what they were when they were added.

  Background:
    Given a model hub with "SmolLM2-135M-Instruct.Q4_1.gguf"

  Scenario Outline: a model is downloaded and answers, in an <topology> cluster
    Given an <topology> cluster that uses the hub
    When I run "rbee-keeper model download hf:someone/smol --alias smollm2-135m"
    Then it succeeds
    And its stdout mentions "Model smollm2-135m is in the catalog"
    When I ask "What is the capital of Japan?"
    Then the answer is some text

    Examples:
      | topology    |
      | integrated  |
      | distributed |

  Scenario: a model that is in no catalog is downloaded by whoever wants its answer
    Given an integrated cluster that uses the hub
    When I run "rbee-keeper infer --model hf:someone/smol --max-tokens 4 Hello"
    Then it succeeds
    And its stderr mentions "is called smollm2-135m-instruct from here on"
    When I run "rbee-keeper infer --model hf:someone/smol --max-tokens 4 Hello"
    Then it succeeds
    And the hub sent less than the file twice

  Scenario: a download that is interrupted goes on where it ended
    Given an integrated cluster that uses the hub
    And the hub is slow
    When I interrupt a download of "hf:someone/smol" in the middle
    And I run "rbee-keeper model list --partial"
    Then it succeeds
    And its stdout mentions "SmolLM2-135M-Instruct.Q4_1.gguf"
    When the hub is fast
    And I run "rbee-keeper model download hf:someone/smol --alias smollm2-135m"
    Then it succeeds
    And its stdout mentions "Model smollm2-135m is in the catalog"
    And the hub sent less than the file twice

  Scenario: a hive that is restarted in the middle of a download goes on with it by itself
    Given an integrated cluster that uses the hub
    And the hub is slow
    When the hive is restarted in the middle of a download of "hf:someone/smol"
    And the hub is fast
    Then the hive soon lists the model "smollm2-135m-instruct"
    And the hub sent less than the file twice

  Scenario: whoever waits for a download of a hive that is killed waits for its next life
    Given a distributed cluster that uses the hub
    And the hub is slow
    When the hive is killed and started again in the middle of a download of "hf:someone/smol"
    Then it succeeds
    And its stderr mentions "The hive has started again, and goes on with the download"
    And its stdout mentions "is in the catalog"
    And the hub sent less than the file twice

  Scenario: a server whose connections break is asked again
    Given an integrated cluster that uses the hub
    And the hub cuts 3 connections
    When I run "rbee-keeper model download hf:someone/smol"
    Then it succeeds
    And its stdout mentions "is in the catalog"

  Scenario: a server that sends other bytes is not believed
    Given an integrated cluster that uses the hub
    And the hub sends other bytes than it says
    When I run "rbee-keeper model download hf:someone/smol --alias broken"
    Then it fails
    And its stderr mentions "SHA-256"
    And the hive lists no model "broken"
    And queen and hive are healthy

  Scenario: a model that is another one at its source is shown, and taken only if somebody agrees
    Given an integrated cluster that uses the hub
    When I run "rbee-keeper model download hf:someone/smol --alias smol"
    Then it succeeds
    And its stdout mentions "is in the catalog"
    When the hub has another "SmolLM2-135M-Instruct.Q4_1.gguf"
    And I run "rbee-keeper model update smol"
    Then it fails
    And its stderr mentions "--accept"
    And I see both digests
    When I run "rbee-keeper model update smol --yes"
    Then it succeeds
    And its stdout mentions "is pinned to"

  Scenario: a catalog that is lost is made again from the models folder
    Given an integrated cluster that uses the hub
    When I run "rbee-keeper model download hf:someone/smol --alias smollm2-135m"
    Then it succeeds
    And its stdout mentions "is in the catalog"
    When the catalog is lost while the queen is down
    And I ask "What is the capital of Japan?"
    Then the answer is some text
