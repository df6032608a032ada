-- Leases that come back, and acknowledgements of those that have.

-- How many of a dead worker's leases one exchange puts back into the queues, so that no exchange takes long.
local MOST_BACK, MOST_BACK_BYTES = 1000, 4194304
-- For how many workers that have left Redis remembers how far they had come.
local MOST_LEFT = 1000

local vanished, come_back, new_fatal = 0, 0, {}

-- How many requests a worker is working on, and how many leases it has not acknowledged.
local function busy_of(whose)
    local at_work, count = string.match(call('HGET', busy, whose) or '0 0', '^(%d+) (%d+)$')
    return tonumber(at_work), tonumber(count)
end

-- Take all its leases from a worker. They count as pending at once; come_back_some() moves them.
local function take_leases(whose, why)
    local count = call('HLEN', prefix .. 'leases:' .. whose)
    if count > 0 then
        turn = turn + 1
        call('RENAME', prefix .. 'leases:' .. whose, prefix .. 'returning:' .. turn)
        if call('EXISTS', prefix .. 'done:' .. whose) == 1 then
            call('RENAME', prefix .. 'done:' .. whose, prefix .. 'finished:' .. turn)
        end
        call('RPUSH', returning, turn .. ' ' .. why)
        pending = pending + count
    end
    return count
end

local function forget(whose)
    call('ZREM', workers, whose)
    for _, key in ipairs({busy, last_duplicates, last_leased, trying}) do
        call('HDEL', key, whose)
    end
    call('ZADD', left, now, whose)
    if call('ZCARD', left) > MOST_LEFT then
        local oldest = call('ZRANGE', left, 0, 0)[1]
        call('ZREM', left, oldest)
        call('HDEL', exchanges, oldest)
    end
end

-- Keep a request in a hash of those that nobody crawls (fatal, unreadable). put_back.lua puts them back.
local function set_aside(where, id, element)
    call('HSET', where, id, element)
    call('HDEL', late, id)
end

-- Turn a lease into a pending request. If its worker died before the page was done, that is one delivery more. Before its last
-- delivery the page becomes a suspect: its worker will have no other page, so that none is set aside for being there, too.
local function give_back(id, element, why, is_done)
    local space = string.find(element, ' ', 1, true)
    local head, deliveries = string.match(string.sub(element, 1, space - 1), '^(%-?%d+s?)/?%d*/?(%d*)$')
    deliveries = why == 'anew' and 0 or tonumber(deliveries) or 0
    if why == 'dead' and not is_done then
        deliveries = deliveries + 1
    end
    element = head .. '/' .. id .. '/' .. deliveries .. string.sub(element, space)
    if deliveries >= most_deliveries then
        set_aside(fatal, id, element)
        pending = pending - 1
        new_fatal[#new_fatal + 1] = id
        new_fatal[#new_fatal + 1] = element
        return
    end
    call('HSET', late, id, '')
    if deliveries > 0 and deliveries == most_deliveries - 1 then
        call('RPUSH', suspects, element)
    else
        put(element, true)
    end
end

local function come_back_some()
    local first = call('LINDEX', returning, 0)
    if not first then
        return
    end
    local name, why, cursor = string.match(first, '^(%S+) (%S+) ?(%d*)$')
    local from, were_done = prefix .. 'returning:' .. name, prefix .. 'finished:' .. name
    local count, bytes = 0, 0
    cursor = cursor == '' and '0' or cursor
    repeat
        local part = call('HSCAN', from, cursor, 'COUNT', 50)
        cursor = part[1]
        for n = 1, #part[2], 2 do
            local id, element = part[2][n], part[2][n + 1]
            if call('HDEL', from, id) == 1 then
                give_back(id, element, why, call('SISMEMBER', were_done, id) == 1)
                count, bytes = count + 1, bytes + #element
            end
        end
    until cursor == '0' or count >= MOST_BACK or bytes >= MOST_BACK_BYTES
    if call('EXISTS', from) == 0 then
        call('LPOP', returning)
        call('UNLINK', were_done)
    else -- the next exchange continues here: searching a large and nearly empty hash from its start takes long
        call('LSET', returning, 0, name .. ' ' .. why .. ' ' .. cursor)
    end
end

-- Acknowledge a page whose lease was taken from this worker; return whether nobody has finished it before.
local function acknowledge_late(id)
    for _, each in ipairs(call('LRANGE', returning, 0, -1)) do
        if call('HDEL', prefix .. 'returning:' .. string.match(each, '^%S+'), id) == 1 then
            pending = pending - 1
            return true
        end
    end
    if call('HDEL', fatal, id) + call('HDEL', unreadable, id) > 0 then
        return true
    end
    local holder = call('HGET', late, id)
    if not holder or holder == 'finished' then
        return false
    end
    if holder ~= '' and call('HDEL', prefix .. 'leases:' .. holder, id) == 1 then
        local was_done = call('SREM', prefix .. 'done:' .. holder, id)
        local at_work, count = busy_of(holder)
        call('HSET', busy, holder, math.max(at_work - 1 + was_done, 0) .. ' ' .. math.max(count - 1, 0))
        call('HDEL', late, id)
    else
        call('HSET', late, id, 'finished') -- it waits in a queue, and is dropped when its turn comes
    end
    return true
end
