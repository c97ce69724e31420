# Copyright 2026 The pushit authors
# SPDX-License-Identifier: Apache-2.0

class Order < ApplicationRecord
  belongs_to :user

  after_update_commit -> { TellShippedJob.perform_later(self) }, if: :saved_change_to_shipped_at?
end
