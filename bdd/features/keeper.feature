Feature: The command line
  Results go to stdout, everything else to stderr, and the exit code tells how it went.

  Scenario: a command that needs the queen starts it and says so
    Given an integrated cluster that is not running
    When I run "rbee-keeper worker list --json"
    Then it succeeds
    And its stdout is a JSON array of 0
    And 1 process of "queen-rbee" runs
    When I run "rbee-keeper model list"
    Then it succeeds

  Scenario: the start of the queen is told on stderr
    Given an integrated cluster that is not running
    When I run "rbee-keeper model list"
    Then it succeeds
    And its stderr mentions "queen"

  Scenario: lists are JSON arrays with the fields of the API
    Given an integrated cluster with a worker
    Then these commands print JSON arrays:
      | command                        | length | fields                                  |
      | rbee-keeper worker list --json | 1      | worker_id model device port pid state   |
      | rbee-keeper model list --json  | 1      | alias sha256 architecture size_bytes    |
      | rbee-keeper hive list --json   | 1      | hive_id devices catalog workers         |
      | rbee-keeper token list --json  | 0      |                                         |
    When I run "rbee-keeper job list --json"
    Then its stdout is a JSON array

  Scenario: the text alone is on stdout
    Given an integrated cluster with a worker
    When I run "rbee-keeper infer --model smollm2-135m --temperature 0 --max-tokens 32 --prompt 'What is the capital of Japan?'"
    Then it succeeds
    And its stdout is some text
    And its stdout is the text that the API gives
    When I run "rbee-keeper infer --model smollm2-135m --temperature 0 --max-tokens 32 'What is the capital of Japan?'"
    Then it succeeds
    And its stdout is some text

  Scenario: Ctrl-C cancels the job and exits with 130
    Given an integrated cluster with a worker
    And "rbee-keeper infer --model smollm2-135m 'Write a very long story about a bee and her hive.'" is writing
    When I press Ctrl-C
    Then it exits with 130
    And the newest job is "cancelled"
    And every slot is free within 3 seconds

  Scenario: failures have an exit code and a reason
    Given an integrated cluster with the demo model
    Then these commands fail:
      | command                                                   | code | mentions       |
      | rbee-keeper worker spawn --model smollm2-135n             | 1    | smollm2-135m   |
      | rbee-keeper worker spawn --model smollm2-135m --device X  | 2    | CPU-0          |
      | rbee-keeper worker get w-00000000                         | 1    | w-00000000     |
      | rbee-keeper worker delete w-00000000                      | 1    | w-00000000     |
      | rbee-keeper model get nothing                             | 1    | nothing        |
      | rbee-keeper model import /nowhere/model.gguf              | 1    | /nowhere       |
      | rbee-keeper infer --model nothing Hi                      | 1    | nothing        |
      | rbee-keeper infer --model smollm2-135m --max-tokens -1 Hi | 2    | max-tokens     |
      | rbee-keeper job show 00000000                             | 1    | 00000000       |
      | rbee-keeper token revoke nothing                          | 1    | nothing        |
      | rbee-keeper worker fly                                    | 2    | fly            |
      | rbee-keeper --queen http://127.0.0.1:1 worker list        | 1    | 127.0.0.1:1    |

  Scenario: workers and models by command
    Given an integrated cluster that is not running
    When I run "rbee-keeper model import $MODEL --alias smollm2-135m --json"
    Then it succeeds
    And its JSON has the field "alias" with "smollm2-135m"
    When I run "rbee-keeper worker spawn --model smollm2-135m --device CPU-0 --json"
    Then it succeeds
    And its JSON has the field "state" with "ready"
    When I run "rbee-keeper worker get $WORKER --json"
    Then its JSON has the field "worker_id" with "$WORKER"
    When I run "rbee-keeper worker delete $WORKER"
    And I run "rbee-keeper worker list --json"
    Then its stdout is a JSON array of 0
    When I run "rbee-keeper model delete smollm2-135m"
    And I run "rbee-keeper model list --json"
    Then its stdout is a JSON array of 0

  Scenario: jobs by command
    Given an integrated cluster with the demo model
    And a job that has succeeded
    When I run "rbee-keeper job show $JOB --json"
    Then its JSON has the field "state" with "succeeded"
    When I run "rbee-keeper job follow $JOB"
    Then it succeeds
    When I run "rbee-keeper job cancel $JOB"
    And I run "rbee-keeper job show $JOB --json"
    Then its JSON has the field "state" with "succeeded"

  Scenario: a job is cancelled by command
    Given an integrated cluster with a worker
    And a job that writes a very long answer
    When I run "rbee-keeper job cancel $JOB"
    Then it succeeds
    And the job is "cancelled"

  Scenario: the local hive is recommended where it is missing
    Given a distributed cluster that is not running
    When I run "rbee-keeper hive start localhost --yes"
    Then it succeeds
    And its stderr mentions "queen rebuild --with-local-hive"
    And 1 process of "rbee-hive" runs
    When I run "rbee-keeper hive stop localhost"
    Then it succeeds
    And no process of "rbee-hive" runs soon

  Scenario: status shows everything on one screen
    Given an integrated cluster with a worker
    When I run "rbee-keeper status"
    Then it succeeds
    And its stdout mentions "smollm2-135m"
    And its stdout mentions "CPU-0"
    When I run "rbee-keeper status --json"
    Then its JSON has the field "workers"

  Scenario: the queen by command
    Given an integrated cluster that is not running
    When I run "rbee-keeper queen status"
    Then it exits with 3
    When I run "rbee-keeper queen start"
    Then it succeeds
    When I run "rbee-keeper queen status"
    Then it succeeds
    When I run "rbee-keeper queen info --json"
    Then its JSON has the field "features"
    When I run "rbee-keeper queen stop"
    Then it succeeds
    And no process runs
    When I run "rbee-keeper queen stop"
    Then it succeeds
