# Copyright 2026 The pushit authors
# SPDX-License-Identifier: Apache-2.0

class TellShippedJob < ApplicationJob
  # All attempts come within two minutes, so the message is published once.
  retry_on PushIt::Failed, wait: 10, attempts: 5

  def perform(order)
    html = ApplicationController.render(partial: "orders/shipped", formats: [:turbo_stream], locals: { order: order })
    PushIt.new.publish("orders/#{order.id}", html, uuid: "order-#{order.id}-shipped")
  end
end
