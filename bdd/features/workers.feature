Feature: Workers
  A worker is one process that runs one model. It is spawned, listed, looked at and deleted.

  Scenario Outline: a worker's life in an <topology> cluster
    Given an <topology> cluster with the demo model
    When I spawn a worker
    Then the hive lists 1 worker that is ready
    And the hive shows that worker with its model, its device and its process
    And the queen lists 1 worker that is ready
    When I delete that worker
    Then the hive lists 0 workers
    And the queen lists 0 workers
    And no worker process runs

    Examples:
      | topology    |
      | integrated  |
      | distributed |

  Scenario: two workers of one model share the requests
    Given an integrated cluster with the demo model
    When I spawn a worker
    And I spawn a worker
    Then the hive lists 2 workers that are ready
    When 8 people ask "What is the capital of Japan?" at once
    Then each of the 8 answers is some text
    Given 2 very long answers that are being streamed to me
    Then each of the 2 workers has 1 busy slot

  Scenario: a worker on a device that the machine lacks is refused
    Given an integrated cluster with the demo model
    When I try to spawn a worker on "GPU-7"
    Then the job fails and its message mentions "GPU-7"
    And the hive lists 0 workers that are ready

  Scenario: a worker for a model that the hive lacks is refused with the nearest name
    Given an integrated cluster with the demo model
    When I try to spawn a worker for the model "smollm2-135n"
    Then the job fails and its message or hint mentions "smollm2-135m"

  Scenario: a worker that does not exist cannot be shown or deleted
    Given an integrated cluster
    When I try to show the worker "w-00000000"
    Then the job fails and its message mentions "w-00000000"
    When I try to delete the worker "w-00000000"
    Then the job fails and its message mentions "w-00000000"
