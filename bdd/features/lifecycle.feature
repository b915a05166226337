Feature: Up and down
  Two words start and stop everything on a machine.

  Scenario Outline: up starts what is needed, down leaves nothing, in an <topology> cluster
    Given an <topology> cluster that is not running
    When I run "rbee-keeper up"
    Then it succeeds
    And 1 process of "queen-rbee" runs
    And <hives> process of "rbee-hive" runs
    When I run "rbee-keeper model import $MODEL --alias smollm2-135m"
    And I run "rbee-keeper worker spawn --model smollm2-135m --device CPU-0"
    Then it succeeds
    And 1 process of "llm-worker-rbee" runs
    When I run "rbee-keeper down"
    Then it succeeds
    And no process runs
    And every database is one file

    Examples:
      | topology    | hives |
      | integrated  | 0     |
      | distributed | 1     |

  Scenario: up starts a hive that was killed, which listens at another port then
    Given a distributed cluster that is not running
    When I run "rbee-keeper up"
    Then it succeeds
    When the process of "rbee-hive" is killed
    And I run "rbee-keeper up"
    Then it succeeds
    When I run "rbee-keeper hive refresh localhost"
    Then it succeeds

  Scenario Outline: up starts a hive that was stopped, in an <topology> cluster
    Given an <topology> cluster that is not running
    When I run "rbee-keeper up"
    And I run "rbee-keeper hive stop localhost"
    Then it succeeds
    When I run "rbee-keeper hive refresh localhost"
    Then it fails
    When I run "rbee-keeper up"
    Then it succeeds
    When I run "rbee-keeper hive refresh localhost"
    Then it succeeds

    Examples:
      | topology    |
      | integrated  |
      | distributed |

  Scenario Outline: a worker's program that does not work is told at once, in an <topology> cluster
    Given an <topology> cluster that is not running
    And the worker's program does not work
    When I run "rbee-keeper up"
    Then it succeeds
    And its stderr mentions "can start no workers: the worker's program does not work here"
    When I run "rbee-keeper hive list"
    Then its stdout mentions "the worker's program does not work here"
    When I run "rbee-keeper status"
    Then its stdout mentions "the worker's program does not work here"

    Examples:
      | topology    |
      | integrated  |
      | distributed |

  Scenario Outline: two ups at once start one queen in an <topology> cluster
    Given an <topology> cluster that is not running
    When I run "rbee-keeper up" twice at once
    Then both succeed
    And 1 process of "queen-rbee" runs
    And <hives> process of "rbee-hive" runs
    When I run "rbee-keeper up"
    Then it succeeds
    And 1 process of "queen-rbee" runs

    Examples:
      | topology    | hives |
      | integrated  | 0     |
      | distributed | 1     |

  Scenario: down where nothing runs is no failure
    Given an integrated cluster that is not running
    When I run "rbee-keeper down"
    Then it succeeds
    When I run "rbee-keeper status"
    Then it exits with 3

  Scenario: down ends workers in the middle of an answer
    Given an integrated cluster that is not running
    When I run "rbee-keeper up"
    And I run "rbee-keeper model import $MODEL --alias smollm2-135m"
    Then it succeeds
    Given a very long answer that is being streamed to me
    When I run "rbee-keeper down"
    Then it succeeds
    And no process runs

  Scenario: the queen ends when it is asked to over HTTP
    Given an integrated cluster with a worker
    When I post to "/v1/shutdown"
    Then the status is 202
    And no process of "queen-rbee" runs soon

  Scenario: a taken port is named with what to change
    Given an integrated cluster that is not running
    And another program holds a port
    When I run "rbee-keeper queen start --bind 127.0.0.1:$PORT"
    Then it exits with 1
    And its stderr mentions "$PORT"
    And its stderr mentions "bind"
    And no process runs

  Scenario: an unknown key of the configuration is named with the nearest one
    Given an integrated cluster that is not running
    And the configuration holds the key "quene_url" under "hive"
    When I run "rbee-keeper up"
    Then it exits with 1
    And its stderr mentions "quene_url"
    And its stderr mentions "queen_url"
    And no process runs
