# Copyright 2026 The pushit authors
# SPDX-License-Identifier: Apache-2.0

class PushitController < ApplicationController
  # Who is this? pushit asks when a page connects, with the cookies of the page.
  def who
    return head :unauthorized unless current_user

    response.set_header "Remote-User", current_user.id.to_s
    head :no_content
  end

  # May this user subscribe? pushit asks for each subscription.
  def channel
    id = params[:channel].to_s[%r{\Aorders/(\d{1,18})\z}, 1]
    order = id && Order.find_by(id: id)
    head current_user && order && order.user_id == current_user.id ? :no_content : :forbidden
  end
end
