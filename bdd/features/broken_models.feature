Feature: Broken models
  A file that is no model, or only a part of one, is refused; no daemon falls over it.

  Scenario Outline: <what> is not imported into an <topology> cluster
    Given an <topology> cluster
    When I try to import <what> as "broken"
    Then the job fails and its message mentions "<mention>"
    And the hive lists no model "broken"
    And queen and hive are healthy

    Examples:
      | topology    | what              | mention |
      | integrated  | a broken GGUF     | GGUF    |
      | integrated  | a truncated GGUF  |         |
      | integrated  | a missing file    |         |
      | integrated  | a folder          |         |
      | integrated  | an empty file     |         |
      | distributed | a truncated GGUF  |         |

  Scenario: a file that was changed after its import is not run
    Given an integrated cluster with the demo model
    And the model's file was replaced by a broken one
    When I try to spawn a worker on "CPU-0"
    Then the job fails
    And queen and hive are healthy
    And no worker process runs

  Scenario: a request to a model that cannot be loaded gets an error, not silence
    Given an integrated cluster with the demo model
    And the model's file was replaced by a broken one
    When I ask "What is the capital of Japan?" and expect no answer
    Then the status is one of 500, 502, 503
    And the answer is an error object
    And queen and hive are healthy

  Scenario: a worker that is given a broken file says why and ends
    Given an integrated cluster
    When a worker is started by hand with a broken file
    Then the queen lists a worker that failed with a reason
    And the worker's exit code is 1
    And the last line of its stderr begins with "error: "
    And queen and hive are healthy

  Scenario: one name cannot mean two models
    Given an integrated cluster with the demo model
    When I try to import a missing file as "smollm2-135m"
    Then the job fails
    When I ask "What is the capital of Japan?"
    Then the answer is some text

  @root
  Scenario: a full disk is named, and nothing half is left behind
    Given an integrated cluster
    And the disk for models has room for 20 megabytes
    When I try to import the demo model as "big"
    Then the job fails and its message or hint mentions "space"
    And the hive lists no model "big"
    And the disk for models is empty again
    And queen and hive are healthy
