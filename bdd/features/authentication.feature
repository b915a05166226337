Feature: Authentication
  On loopback nobody needs a token. Whatever others can reach demands one.

  Scenario: a queen that others can reach does not start without a token
    Given an integrated cluster that is not running
    When I run "rbee-keeper queen start --bind 0.0.0.0:0"
    Then it exits with 1
    And its stderr mentions "rbee-keeper token create"
    And no process runs

  Scenario: a hive that others could reach does not start before it knows its own address
    Given a distributed cluster that is not running
    When I start "rbee-hive" by hand with "RBEE_HIVE__BIND=0.0.0.0:0"
    Then it fails
    And its stderr mentions "--advertise"
    And no process runs

  Scenario Outline: with a token every route but health demands it in an <topology> cluster
    Given an <topology> cluster that is not running
    And I have created a token
    When I run "rbee-keeper queen start --bind 0.0.0.0:0"
    Then it succeeds
    And these routes answer 401 without the token, and with a wrong one:
      | GET    | /v1/models           |
      | GET    | /v1/models/x         |
      | GET    | /v1/status           |
      | GET    | /v1/build-info       |
      | GET    | /v1/jobs             |
      | POST   | /v1/jobs             |
      | POST   | /v1/chat/completions |
      | POST   | /v1/completions      |
      | POST   | /v1/worker-heartbeat |
      | POST   | /v1/hive-heartbeat   |
      | POST   | /v1/shutdown         |
      | GET    | /v1/nothing          |
    And "/health" answers 200 without the token
    And "/v1/models" answers 200 with the token

    Examples:
      | topology    |
      | integrated  |
      | distributed |

  Scenario Outline: a prompt is answered behind a token in an <topology> cluster
    Given an <topology> cluster that is not running
    And I have created a token
    When I run "rbee-keeper up"
    And I run "rbee-keeper model import $MODEL --alias smollm2-135m"
    Then it succeeds
    When I use the token
    And I ask "What is the capital of Japan?"
    Then the answer is some text
    And the worker demands a token of its own

    Examples:
      | topology    |
      | integrated  |
      | distributed |

  Scenario: a revoked token is worth nothing, and opens nothing
    Given an integrated cluster that is not running
    And I have created a token
    When I run "rbee-keeper queen start --bind 0.0.0.0:0"
    Then it succeeds
    And "/v1/models" answers 200 with the token
    When I run "rbee-keeper token revoke laptop"
    Then it succeeds
    And "/v1/models" answers 401 with the token
    And "/v1/models" answers 401 without the token

  Scenario: the token is shown once and kept nowhere
    Given an integrated cluster that is not running
    And I have created a token
    When I run "rbee-keeper queen start"
    And I run "rbee-keeper token list --json"
    Then it succeeds
    And its stdout is a JSON array of 1
    When I use the token
    And I get "/v1/models"
    Then the status is 200
    And no file of the home holds the token
