Feature: What changes is told
  A dashboard follows one stream: first all that there is, then every change.

  Scenario: a follower sees a worker come, answer and go
    Given an integrated cluster with the demo model
    When I follow the events
    Then the first event is a snapshot with 1 hive and 0 workers
    When I spawn a worker
    Then an event tells of a worker that is "ready"
    And an event tells of a job "worker_spawn" that is "succeeded"
    When I delete that worker
    Then an event tells that a worker is gone

  Scenario: a follower is told why a request was refused
    Given an integrated cluster
    When I follow the events
    Then the first event is a snapshot with 1 hive and 0 workers
    When I ask the model "nobody-has-it" in vain
    Then an event tells of a decision "reject" because of "unknown_model"

  Scenario: a hive that listens nowhere is counted on the page of its queen
    Given an integrated cluster with the demo model
    Then the queen's figures have those of her hive, each family once
