Feature: A worker on demand
  A model that is in the catalog needs no worker beforehand: the first request starts one and waits.

  Scenario Outline: the first request to a model starts its worker in an <topology> cluster
    Given an <topology> cluster with the demo model
    When I ask "What is the capital of Japan?"
    Then the answer is some text
    And the queen lists 1 worker that is ready

    Examples:
      | topology    |
      | integrated  |
      | distributed |

  Scenario: several first requests start one worker, not several
    Given an integrated cluster with the demo model
    When 4 people ask "What is the capital of Japan?" at once
    Then each of the 4 answers is some text
    And the queen lists 1 worker that is ready
    And 1 worker process runs
