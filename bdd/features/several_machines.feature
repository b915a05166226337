Feature: Several machines
  A hive on another machine reports to the queen, and its workers answer with the others.

  Scenario Outline: a model that only another machine has, in an <topology> cluster
    Given an <topology> cluster
    And another machine "gpu-1" with the demo model
    When I ask "What is the capital of Japan?"
    Then the answer is some text
    And 1 worker runs on "gpu-1"
    And 0 workers run on "localhost"
    When I run "rbee-keeper worker list --hive gpu-1 --json"
    Then its stdout is a JSON array of 1
    When I run "rbee-keeper hive list --json"
    Then its stdout is a JSON array of 2
    When I run "rbee-keeper worker list"
    Then its stdout mentions "gpu-1"
    When I run "rbee-keeper model list --json"
    Then its stdout is a JSON array of 1
    When I run "rbee-keeper model get smollm2-135m --json"
    Then its JSON has the field "alias" with "smollm2-135m"
    When I run "rbee-keeper worker spawn --model smollm2-135m --json"
    Then its JSON has the field "hive_id" with "gpu-1"
    When I run "rbee-keeper model verify smollm2-135m"
    Then it succeeds

    Examples:
      | topology    |
      | integrated  |
      | distributed |

  Scenario: what two machines have is asked about by name
    Given an integrated cluster with the demo model
    And another machine "gpu-1" with the demo model
    When I run "rbee-keeper model list --json"
    Then its stdout is a JSON array of 2
    When I run "rbee-keeper model verify smollm2-135m --json"
    Then its stdout is a JSON array of 2
    When I run "rbee-keeper model get smollm2-135m"
    Then it succeeds
    And its stderr mentions "gpu-1 has the same file"
    When I run "rbee-keeper model delete smollm2-135m"
    Then it exits with 2
    And its stderr mentions "--hive localhost, or --hive gpu-1"
    When I run "rbee-keeper model delete smollm2-135m --hive gpu-1"
    Then it succeeds
    When I run "rbee-keeper model delete nothing"
    Then it fails
    And its stderr mentions "no hive has a model nothing"
    When the other machine loses its power
    And I run "rbee-keeper model list --json"
    Then its stdout is a JSON array of 1
    When I run "rbee-keeper model list"
    Then its stderr mentions "hive gpu-1 is left out"

  Scenario: two machines share the requests
    Given an integrated cluster with a worker
    And another machine "gpu-1" with a worker
    And 2 very long answers that are being streamed to me
    Then each of the 2 workers has 1 busy slot

  Scenario: a machine loses its power
    Given an integrated cluster with a worker
    And another machine "gpu-1" with a worker
    When the other machine loses its power
    And 4 people ask "What is the capital of Japan?" at once
    Then each of the 4 answers is some text
    And the queen lists 1 worker that is ready

  Scenario: a machine without the queen's secret has no part
    Given an integrated cluster that is not running
    And I have created a token
    When I run "rbee-keeper queen start"
    Then it succeeds
    When a stranger reports a worker of his own
    Then the status is 401
    When I use the token
    Then the queen lists 0 workers
